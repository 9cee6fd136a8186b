# Two commands first: `make demo` and `make test`. All set up a virtual environment in .venv first and reuse it
# as long as pyproject.toml has not changed. Nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO_READY := $(VENV)/demo-ready
WORKERS ?= auto
STUDIES := operators receptive sharing groups modulation

.PHONY: demo test coverage docs lint check-kernels bench figures clean setup

demo: $(DEMO_READY)
	$(BIN)/dcnlab demo

test: $(READY) lint
	$(BIN)/python -m pytest -n $(WORKERS) -q

# Apart from `make test`, as it doubles the time of what is plain Python.
coverage: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term -q

# The site, from local files only. Warnings are errors.
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every kernel under check mode and UBSan, and the bugs that these must find.
check-kernels: $(READY)
	DCNLAB_REQUIRE_CPU_KERNELS=1 $(BIN)/python -m pytest -q tests/kernels tests/launch tests/bench_gpu -m check_kernels

bench: $(READY)
	$(BIN)/dcnlab bench ops

# Record anew what README.md shows: the demo's picture and numbers, and the benchmark's table.
figures: $(READY)
	$(BIN)/dcnlab demo --out dcnlab-demo
	cp dcnlab-demo/demo.png docs/images/demo.png
	cp dcnlab-demo/results.json docs/results/demo.json
	$(BIN)/dcnlab bench ops --out docs/results/ops.json
	$(BIN)/python docs/real_weights.py
	$(BIN)/dcnlab bench model --huge --out docs/results/model.json
	$(BIN)/python docs/train_digits.py
	$(BIN)/dcnlab bench train --out docs/results/scaling.json
	for study in $(STUDIES); do $(BIN)/dcnlab study $$study --out dcnlab-study && cp dcnlab-study/$$study.json docs/results/; done
	$(BIN)/dcnlab kernels compile --out docs/results/kernels.json
	$(BIN)/dcnlab kernels bench --out docs/results/kernels.json
	$(BIN)/python docs/refresh.py

setup: $(READY)

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit('dcnlab needs Python 3.11 or newer; set PYTHON=...') if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv $(VENV)

# The demo needs only the run-time dependencies; a full set-up serves it too.
$(DEMO_READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e .
	touch $@

$(READY): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@ $(DEMO_READY)

clean:
	rm -rf $(VENV) dcnlab-demo dcnlab-study* docs/_build docs/api docs/course docs/kernels
