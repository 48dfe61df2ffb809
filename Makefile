# make demo      a GPT learns Shakespeare: under three minutes on two cores, then a sample and a picture of its loss
# make test      everything that can be checked on this machine; the last line is "N passed, N failed"
# make lessons   compiles every lesson into build/
# make bench     speed as ratios to other programs, one table (make bench-peers installs them; PEERS=path adds checkouts;
#                CPU=avx2: as on a processor without AVX-512)
# make base      the model that lessons 10 to 16 stand on, into out/base: 17 minutes
# make results   what lessons 10 to 16 are about, in numbers, for five seeds: hours; stops and goes on (SEEDS=1 for one)
# make cuda      compiles the GPU backend for three chips and holds its machine instructions to rules (nvcc, no GPU)
# make test-cuda the tests of cuda/ in emulation (no GPU, no nvcc), each barrier removed in turn: half an hour or so
# make gpu-check on a GPU: the same tests, compute-sanitizer, times beside the least possible; a table for an issue
# make notebooks the notebooks from the first cell to the last, in a Python environment that it makes in build/ (PyPI):
#                under 20 minutes; NOTEBOOK=01 for one, SAVE=1 writes the outputs back
# make clean     removes build/ and out/
CC = cc
CXX = c++
LESSONS = $(patsubst examples/%.c,build/%,$(sort $(wildcard examples/[0-9][0-9]_*.c)))
HEADERS = autograd.h bpe.h gpt.h $(wildcard examples/*.h tests/*.h)
# test programs: as a reader builds (-O3), and again with sanitizers; the ops in double
PROGRAMS = $(patsubst tests/%.c,%,$(sort $(wildcard tests/test_*.c)))
CHECKED = $(addprefix build/tests/,$(PROGRAMS)) $(addprefix build/asan/,$(filter-out test_amx,$(PROGRAMS)))
WARNINGS = -std=c99 -Wall -Wextra -Wpedantic -Wshadow -Wvla -Werror
DOUBLE = test_ops
real = $(if $(filter $(DOUBLE),$*),-DAG_REAL=double)
# The fast kernels take minutes to compile with all checks: three programs have them with ASan, the others are naive.
FAST = test_engine test_float test_matmul
SANITIZE = -O1 -g -fno-omit-frame-pointer -fsanitize=address $(if $(filter $(FAST),$*),,-fsanitize=undefined \
    -fno-sanitize-recover=undefined -DAG_NAIVE)

VENV = build/notebooks/venv

.PHONY: all demo base test quick lessons bench bench-peers results cuda test-cuda gpu-check notebooks setup clean
all: lessons

demo: setup build/08_pretrain
	build/08_pretrain recipe=fast
	@echo "The loss curve is out/08/loss.png, the log is out/08/log.csv; next: README.md, the table of lessons."

# A folder of its own: make demo and the exercises of lesson 08 write to out/08.
base: setup build/08_pretrain
	build/08_pretrain recipe=base out=out/base

lessons: setup $(LESSONS)

build/%: examples/%.c $(HEADERS) | setup
	$(CC) -O3 -Ibuild $< -o $@ -lm

test: lessons $(CHECKED)
	@sh tests/setup.sh tests
	@sh tests/run.sh

# what a change should pass before it is committed: the -O3 programs only
quick: $(addprefix build/tests/,$(PROGRAMS))
	@QUICK=1 sh tests/run.sh

build/tests/%: tests/%.c $(HEADERS) | setup
	$(CC) -O3 $(WARNINGS) $(real) -Ibuild $< -o $@ -lm

build/asan/%: tests/%.c $(HEADERS) | setup
	$(CC) $(SANITIZE) $(WARNINGS) $(real) -Ibuild $< -o $@ -lm

# these include the lesson that they test
build/tests/test_base build/asan/test_base: examples/10_base_model.c
build/tests/test_ppo build/asan/test_ppo: examples/14_ppo.c
build/tests/test_grpo build/asan/test_grpo: examples/15_grpo.c
build/tests/test_dpo build/asan/test_dpo: examples/16_dpo.c
build/tests/test_questions build/asan/test_questions: examples/12_tools.c
build/tests/test_reward build/asan/test_reward: examples/13_reward_model.c

bench: lessons
	@python3 tests/bench.py row=$(ROW) resume=$(RESUME) cpu=$(CPU) peers=$(PEERS)

bench-peers:
	@sh tests/peers/make_peers.sh

results: lessons
	@python3 tests/results.py seeds=$(SEEDS)

cuda:
	@sh tests/cuda/gates.sh

test-cuda:
	@FULL=1 sh tests/test_cuda.sh
	@sh tests/cuda/slow.sh

gpu-check:
	@sh tests/cuda/gpu_check.sh

notebooks: setup $(VENV)/ready
	@$(VENV)/bin/python notebooks/run.py only=$(NOTEBOOK) save=$(SAVE)

# Debian keeps pip for such environments in a package of its own; the system's pip can fill them, too.
$(VENV)/ready: notebooks/requirements.txt
	@echo "installing Jupyter and matplotlib into $(VENV) (a minute)"
	@mkdir -p build/notebooks
	@python3 -m venv $(VENV) 2> build/notebooks/venv.log || python3 -m venv --without-pip $(VENV)
	@if [ -x $(VENV)/bin/pip ]; then $(VENV)/bin/pip install -q -r $<; \
	    else python3 -m pip --python $(VENV)/bin/python install -q -r $<; fi
	@touch $@

# Pictures need stb_image_write.h, and the tests a few of Debian's packages; both are installed where that is possible.
setup:
	@mkdir -p build/tests build/asan
	@sh tests/setup.sh

clean:
	rm -rf build out
