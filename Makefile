# vLLama from a checkout. Needs Python 3.11 or newer; everything else is set up here, in .venv* and .models.
#
#   make run      the router and real vLLM workers behind http://127.0.0.1:11434 (PORT=, MODEL=, ARGS=)
#   make test     the tests, those on real vLLM included (ARGS="-k name" for some of them)
#   make quick    the tests that need neither vLLM nor a whole system of processes: a minute and a half
#   make check    ruff and mypy
#   make bench    CPU, latency and memory of the router beside other routers (ARGS="--help" for the options)
#   make bench-curves  how the router scales with streams, workers, models and processes, as pictures in docs/
#   make bench-profile  the CPU time of a request by part of the router, before and after a change
#   make bench-real     streams of a real vLLM through the router beside the same streams without it
#   make bench-start    how long `vllama serve` takes to its first answer
#   make chaos    faults on a fleet under load, and what clients noticed (ARGS="F3 F13", ARGS=--full,
#                 ARGS="--leavings 10000")
#   make soak     20 minutes of load with a worker killed every 30 s (TIME=2m)
#   make bench-check  fail if a request or a token needs more instructions than the baseline; needs valgrind
#   make lock     rewrite the lock files
#   make clean    remove what was set up

PYTHON ?= python3
MODEL ?=
PORT ?=
ARGS ?=
export MODEL PORT
# Cached bytecode halves the start of every process, so write it even if the environment forbids it.
export PYTHONDONTWRITEBYTECODE =

SETUP = $(PYTHON) -m deploy.local.setup
PYTEST = .venv/bin/python -m pytest -p tests.support.kinds
# Tests of small systems mostly wait for beats and time-outs, so more of them run at once than there are cores. Nine are
# fast; five tolerate a busy machine.
SMALL = --dist worksteal -m "not vllm and not load and not netns $(WITHOUT)"
# Tests on a real vLLM, those of one server in one process: a vLLM starts on one core while another answers. The longest
# groups come first, as tests/vllm/conftest.py orders them, and not those with the most tests.
BY_SERVER = -n 2 --dist loadgroup --no-loadscope-reorder -m "vllm and not main_job or netns"
# These measure what clients notice, so nothing runs beside them.
ALONE = -m "main_job or load"

.PHONY: help run setup test quick check bench bench-curves bench-profile bench-real bench-start bench-check chaos soak lock clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/d'

run:
	@exec $(PYTHON) -m deploy.local.run $(ARGS)

setup:
	@$(SETUP) --engine cpu dev vllm smollm2 minilm test-models clients

ifeq ($(ARGS),)
test: setup
	@failed=0; \
	$(PYTEST) -n 5 $(SMALL) || failed=1; \
	$(PYTEST) $(BY_SERVER) || failed=1; \
	$(PYTEST) $(ALONE) || failed=1; \
	exit $$failed
else
test: setup
	@exec $(PYTEST) $(ARGS)
endif

quick: WITHOUT = and not clients and not system
quick:
	@$(SETUP) dev
	@exec $(PYTEST) -n 9 $(SMALL) $(ARGS)

check:
	@$(SETUP) dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy -p deploy.local
	.venv/bin/mypy -p tests.bench
	.venv/bin/mypy -p tests.chaos

bench:
	@$(SETUP) dev
	@exec .venv/bin/python -m tests.bench.run $(ARGS)

bench-curves:
	@$(SETUP) dev
	@exec .venv/bin/python -m tests.bench.curves $(ARGS)

bench-profile:
	@$(SETUP) dev
	@exec .venv/bin/python -m tests.bench.profile $(ARGS)

bench-real:
	@$(SETUP) --engine cpu dev vllm smollm2
	@exec .venv/bin/python -m tests.bench.real $(ARGS)

bench-start:
	@$(SETUP) dev
	@exec .venv/bin/python -m tests.bench.start $(ARGS)

bench-check:
	@$(SETUP) dev
	@exec .venv/bin/python -m tests.bench.check $(ARGS)

chaos:
	@$(SETUP) dev
	@exec .venv/bin/python -m tests.chaos $(ARGS)

soak:
	@$(SETUP) dev
	@exec .venv/bin/python -m tests.chaos --soak $(or $(TIME),20m) --picture docs/chaos-soak.svg $(ARGS)

lock:
	@$(PYTHON) -m deploy.local.update_locks

clean:
	rm -rf .venv .venv-vllm .venv-vllm-cuda .venv-clients .tools .models .state .bench .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
