# `make study` and `make test` are all a newcomer needs: each sets up .venv from the committed lock,
# the first with what a race uses, the second with everything.
PYTHON  ?= python3
WORKDIR ?= runs/nano
CONFIG  ?= configs/study.py:nano
BIN     := .venv/bin
# A file's tests go to one of two processes, in the order of tests/conftest.py.
TESTS   := -n 2 --dist=loadfile --no-loadscope-reorder

RUN      ?= 130m,1x,muon
TOPOLOGY ?= v5e:16x16

.PHONY: study test fast numerics lint lock clean help coverage preflight stress

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

# Every environment has the pins of requirements.lock, each as many of them as it uses.
.venv/study: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --editable '.[study]'
	touch $@

# The rest: Ray, notebooks, test tools.
.venv/ready: .venv/study
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

study: .venv/study  ## race the optimizers of the nano study on this machine and write the report
	$(BIN)/python -m sweeps.run --config=$(CONFIG) --workdir=$(WORKDIR)
	$(BIN)/python -m analysis.report $(WORKDIR)

test: .venv/ready  ## every test
	$(BIN)/python -m pytest $(TESTS)

fast: .venv/ready  ## the tests to run while working (3 minutes; 4 the first time)
	$(BIN)/python -m pytest $(TESTS) -m "not slow and not stress"

# Other kernels round differently: trajectories and decompositions must not depend on the processor.
numerics: .venv/ready  ## the numeric tests as on a processor without AVX
	OPENBLAS_CORETYPE=Nehalem XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 JAX_DISABLE_MOST_OPTIMIZATIONS=0 \
	  $(BIN)/python -m pytest -n 2 tests/optim/rules tests/optim/linalg \
	  -k "trajectory or authors or study or linalg"

coverage: .venv/ready  ## do published numbers hold? a thousand synthetic studies and races, two hours
	$(BIN)/python -m analysis.coverage --studies=1000 --out=docs/coverage.csv
	$(BIN)/python -m benchmarks.planner.calibration --races=1000 --out=docs/coverage_races.csv

stress: .venv/ready  ## kill workers, drivers and nodes at random over hundreds of trials; minutes
	$(BIN)/python -m pytest -s -m stress

# An environment of its own: an installed libtpu changes how JAX starts.
.venv-tpu/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet 'uv>=0.9'
	.venv-tpu/bin/uv pip install --quiet --python .venv-tpu/bin/python --constraint requirements.lock --editable '.[train,tpu]'
	touch $@

# XLA's compiler for CUDA and cuDNN's front end; no driver, no GPU, none of CUDA's other wheels.
.venv-gpu/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet 'uv>=0.9'
	.venv-gpu/bin/uv pip install --quiet --python .venv-gpu/bin/python --constraint requirements.lock --editable '.[train]'
	version=$$(.venv-gpu/bin/python -c 'import jax; print(jax.__version__)') && \
	.venv-gpu/bin/uv pip install --quiet --python .venv-gpu/bin/python --no-deps \
	  jax-cuda12-plugin==$$version jax-cuda12-pjrt==$$version nvidia-cudnn-cu12
	touch $@

COMPILER := .venv-$(if $(filter h%,$(TOPOLOGY)),gpu,tpu)

preflight: $(COMPILER)/ready  ## compile RUN for TOPOLOGY (v5e:16x16, h100:8), on this machine
	$(COMPILER)/bin/python -m lm.preflight --config=configs/run.py:$(RUN) --topology=$(TOPOLOGY)

lint: .venv/ready  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock: .venv/ready  ## resolve pyproject.toml again, for every supported Python
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra dev pyproject.toml -o requirements.lock

clean:  ## remove the environment and the default study
	rm -rf .venv runs
