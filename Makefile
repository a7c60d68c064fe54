# `make study` and `make test` are all a newcomer needs: each sets up .venv from the committed lock.
PYTHON  ?= python3
WORKDIR ?= runs/nano
CONFIG  ?= configs/study.py:nano
BIN     := .venv/bin

.PHONY: study test fast lint lock clean help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

# uv reads requirements.lock; so does `pip install -r requirements.lock`, with the same pins.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

study: .venv/ready  ## race the optimizers of the nano study on this machine and write the report
	$(BIN)/python -m sweeps.run --config=$(CONFIG) --workdir=$(WORKDIR)
	$(BIN)/python -m analysis.report $(WORKDIR)

test: .venv/ready  ## every test
	$(BIN)/python -m pytest

fast: .venv/ready  ## the tests to run while working (under 3 minutes)
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/ready  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock: .venv/ready  ## resolve pyproject.toml again, for every supported Python
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --extra analysis --extra data --extra dev --extra cluster pyproject.toml -o requirements.lock

clean:  ## remove the environment and the default study
	rm -rf .venv runs
