# `make demo` and `make test` are the two commands of the README; both install what they need into .venv first.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
export FLWR_TELEMETRY_ENABLED := 0
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test lint clean

demo: $(VENV)/installed
	test -d data/nicheformer || $(RUN) -m datasets nicheformer data/nicheformer
	$(RUN) compare.py configs/nicheformer.yaml $(ARGS)

test: $(VENV)/installed lint
	$(RUN) -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy core models datasets training tasks reports centralized fl compare.py tune.py benchmarks
	$(VENV)/bin/lint-imports

# torch first: its version decides which of its many builds pip takes.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/pip install --quiet --constraint constraints.txt ".[dev,track,tune,workflow]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
