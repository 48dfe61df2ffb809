"""Removes each barrier of some kernels in turn, and demands that the checker says something.

    python3 tests/cuda/barriers.py TEST.cu [FILE ...] [c=FILE.c] [jobs=2] [site=FILE:LINE]

TEST.cu is a test program whose kernels are in FILE ..., or in itself; those FILEs that are programs' halves of their
own (.cu) are compiled beside it, c=FILE.c is linked to it. site= takes one barrier instead of all. Of each
__syncthreads(), __syncwarp() and cp_async_wait<>() a copy of the sources is made that lacks it; of each
__syncthreads_or() and its kin one in which a thread takes its own word for all, and of each atomicAdd() one in which it
is a plain addition. The copy is built with the checker and run: it has to report a race, a read of what is
not there, or that nobody can go on. A barrier that can go without a word is not needed, or no test comes to where it
is needed, or the checker is blind; each of these is worth knowing. One that is meant to be needless says so: "// spare"
behind it. This is mutation testing (DeMillo, Lipton and Sayward 1978) for the one kind of mistake that tests on a GPU
see least.

Compiling and running takes four seconds for each barrier of a small program, and a minute or two for one of
gpt_cuda.cu; so this is no part of make test. The last line is "barriers: N passed, N failed".
"""
import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = 'build/barriers'
CXX = os.environ.get('CXX', 'g++')
FLAGS = ['-std=c++17', '-g', '-O1', '-fno-tree-sra', '-w', '-Icuda', '-I.', '-DCUDA_ON_CPU_CHECK', '-fsanitize=thread']
LIBRARIES = ['-nodefaultlibs', '-lstdc++', '-lm', '-lc', '-lgcc_s', '-lgcc']
SEEDS = '0', '1', '2'                               # a race that a third reader hides shows with another one
SECONDS = 600                                       # for one run; backend.cu takes about 45, with BACKEND_QUICK=1
REPORTS = {97: 'reported', 98: 'nobody can go on', 99: 'an error'}
# A plain addition that has a value, as atomicAdd has.
PLAIN = '([&] { auto *p_ = (%s); auto old_ = *p_; *p_ = old_ + (%s); return old_; }())'


def without_comments(text):
    """The same text, of the same length, with blanks for comments and strings."""
    blank = lambda m: re.sub(r'[^\n]', ' ', m.group())
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def closing(text, at):
    """Behind the parenthesis that closes the one at this place, and where its commas are."""
    depth, commas = 0, []
    for i in range(at, len(text)):
        if text[i] in '([{':
            depth += 1
        elif text[i] in ')]}':
            depth -= 1
            if not depth:
                return i + 1, commas
        elif text[i] == ',' and depth == 1:
            commas.append(i)
    sys.exit('a parenthesis is not closed')


def sites(path):
    """Of each barrier: its place, its name, and the source without it."""
    text = open(os.path.join(ROOT, path)).read()
    code = without_comments(text)
    for m in re.finditer(r'\b(__syncthreads(?:_\w+)?|__syncwarp|cp_async_wait\s*<[^;(]*>|atomicAdd)\s*\(', code):
        before = code[code.rfind('\n', 0, m.start()) + 1:m.start()]
        line = text[m.start():text.index('\n', m.start())]
        if re.search(r'\b(void|T|float|int|unsigned|define)\s+$', before) or '// spare' in line:
            continue                                # a declaration, or one that says that it is not needed
        end, commas = closing(code, m.end() - 1)
        new = '(void)0'
        if m.group(1).startswith('__syncthreads_'):
            new = text[m.end() - 1:end]
        if m.group(1) == 'atomicAdd':
            new = PLAIN % (text[m.end():commas[0]], text[commas[0] + 1:end - 1])
        yield f'{path}:{code.count(chr(10), 0, m.start()) + 1}', m.group(1), text[:m.start()] + new + text[end:]


def build_and_run(number, programs, objects, path, source):
    """What a copy of the sources says in which this file is another one: (words, exit status)."""
    tree = os.path.join(ROOT, BUILD, str(number))
    files = [f for p in ('*.h', 'cuda/*', 'tests/*.h', 'tests/cuda/*') for f in glob.glob(os.path.join(ROOT, p))]
    for f in files:
        to = os.path.join(tree, os.path.relpath(f, ROOT))
        os.makedirs(os.path.dirname(to), exist_ok=True)
        if path is None or os.path.relpath(f, ROOT) != path:
            os.symlink(f, to)
    if path is not None:
        open(os.path.join(tree, path), 'w').write(source)
    made = subprocess.run([CXX, *FLAGS, '-x', 'c++', *programs, '-o', 'program', '-x', 'none', *objects, *LIBRARIES],
                          cwd=tree, capture_output=True, text=True)
    if made.returncode:
        return 'does not compile: ' + made.stderr[:500], -1
    for seed in SEEDS:
        environment = dict(os.environ, CUDA_ON_CPU_SEED=seed, CUDA_ON_CPU_MAX_ERRORS='1', CUDA_ON_CPU_DEVICES='2')
        try:
            ran = subprocess.run(['./program'], cwd=tree, capture_output=True, text=True, env=environment,
                                 timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return 'did not end', -1
        if ran.returncode in REPORTS:
            break
    words = re.search(r'^cuda_on_cpu: ([A-Z][A-Z ]+[A-Z])', ran.stderr, re.M)
    shutil.rmtree(tree)
    return words.group(1) if words else REPORTS.get(ran.returncode, ''), ran.returncode


def main(arguments):
    jobs = [int(a[5:]) for a in arguments if a.startswith('jobs=')] or [1]
    c_files = [a[2:] for a in arguments if a.startswith('c=')]
    only = [a[5:] for a in arguments if a.startswith('site=')]
    names = [os.path.relpath(os.path.abspath(a), ROOT) for a in arguments if '=' not in a]
    if not names:
        sys.exit(__doc__)
    program, files = names[0], names[1:] or names[:1]
    programs = [program]
    shutil.rmtree(os.path.join(ROOT, BUILD), ignore_errors=True)
    os.makedirs(os.path.join(ROOT, BUILD))
    objects = []
    for c in c_files:
        objects.append(os.path.join(ROOT, BUILD, os.path.basename(c) + '.o'))
        subprocess.run([os.environ.get('CC', 'cc'), '-O2', '-c', c, '-o', objects[-1]], check=True)
    for half in [f for f in files if f.endswith('.cu') and f != program]:
        # The test's own half changes never: it is compiled once, without the checker, since it has no kernels.
        if programs == [program]:
            objects.append(os.path.join(ROOT, BUILD, os.path.basename(program) + '.o'))
            subprocess.run([CXX, '-std=c++17', '-O1', '-w', '-Icuda', '-x', 'c++', '-c', program, '-o', objects[-1]],
                           cwd=ROOT, check=True)
            programs = []
        programs.append(half)
    words, status = build_and_run(0, programs, objects, None, None)
    if status:
        print(f'FAILED barriers: {program} as it is ends with status {status}: {words}')
        print('barriers: 0 passed, 1 failed')
        sys.exit(1)
    passed, failed, all_sites = 1, 0, [(path, *site) for path in files for site in sites(path)
                                       if not only or site[0] in only]
    if not all_sites:
        sys.exit(f'there is no barrier at {only[0]}' if only else f'{" ".join(files)}: no barrier is there')
    with concurrent.futures.ThreadPoolExecutor(jobs[0]) as pool:
        runs = [pool.submit(build_and_run, i + 1, programs, objects, path, source)
                for i, (path, _, _, source) in enumerate(all_sites)]
        for (path, place, what, _), run in zip(all_sites, runs):
            words, status = run.result()
            seen = status in REPORTS
            passed, failed = passed + seen, failed + (not seen)
            if status == 0:
                words = 'NOBODY NOTICES'
            elif not seen and status > 0:
                words = 'a wrong result, and no report'
            print(f'{"" if seen else "FAILED "}{place:32} {what:18} {words}', flush=True)
    print(f'barriers: {passed} passed, {failed} failed')
    sys.exit(failed > 0)


main(sys.argv[1:])
