# Everything runs in .venv, created on first use. hnswlib needs a C++ compiler and Python's headers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart demo test lint format check-types unit gpu-test docs-site clean

quickstart: $(VENV)/.quickstart
	HF_HUB_OFFLINE=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/aisle quickstart

# The search page on the quickstart's shop, with the base model beside the tuned one; Ctrl-C ends it.
DEMO_PORT ?= 8080
TUNED_INDEX := runs/quickstart-index
BASE_INDEX := runs/quickstart-base-index

demo: $(TUNED_INDEX)/manifest.json $(BASE_INDEX)/manifest.json | $(VENV)/.quickstart
	HF_HUB_OFFLINE=1 $(BIN)/aisle serve --demo --port $(DEMO_PORT) --index_dir $(TUNED_INDEX) --compare_index_dir $(BASE_INDEX)

$(TUNED_INDEX)/manifest.json:
	$(MAKE) quickstart

$(BASE_INDEX)/manifest.json: $(TUNED_INDEX)/manifest.json | $(VENV)/.quickstart
	HF_HUB_OFFLINE=1 $(BIN)/aisle build --model all-MiniLM-L6-v2 --max_length 64 --catalog runs/quickstart-sample/products.csv \
		--text_template '{title} {brand}' --index_dir $(BASE_INDEX)

test: lint check-types docs-site unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/.dev
	$(BIN)/mypy

# Without the flag, files with the most tests would start first, not those that take longest (tests/conftest.py).
unit: $(VENV)/.dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# Installs nothing, and runs with the versions that are there: .venv's if it exists, otherwise those of $(PYTHON). So warnings,
# which differ between versions, are no errors. Without a GPU all tests are skipped.
gpu-test:
	HF_HUB_OFFLINE=1 PYTHONPATH="src$${PYTHONPATH:+:$$PYTHONPATH}" \
		$(or $(wildcard $(BIN)/python),$(PYTHON)) -m pytest -W default --durations 10 tests/gpu

# The docs as pages in build/site, which open from disk; warnings are errors. Do not use --quiet: mkdocs would neither show
# nor count warnings.
docs-site: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[quickstart]'
	touch $@

# Triton interprets the GPU's kernels for tests/kernels/test_triton_kernels.py. In a folder of its own, since transformers and PEFT
# import it where they find it, which takes 0.4 s of every process. LangChain, LlamaIndex and Haystack (90 MB) likewise have a folder,
# for tests/integrations alone: LangSmith would start with every pytest. So have moto and boto3 (73 MB), for tests/deploy.
$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	[ "$$(uname)" != Linux ] || $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps \
		--upgrade --target $(VENV)/triton triton
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps --no-compile \
		--upgrade --target $(VENV)/integrations -r tests/integrations/requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps --no-compile \
		--upgrade --target $(VENV)/aws -r tests/deploy/requirements.txt
	touch $@ $(VENV)/.quickstart

clean:
	rm -rf $(VENV) build dist runs .mypy_cache .ruff_cache .pytest_cache
