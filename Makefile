# make design: set up, then 20 crystals from shipped weights.  make test: set up, then all checks.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ELEMENTS := Li,Na,Mg,Al,Si,P,S,Zn,Ga,Ge,N,O,F,Cl,Se,Br,In,Sn,Sb,Te
.PHONY: setup design lint type test test-slow golden bench build
setup: .venv/runtime.stamp .venv/checks.stamp
.venv/pins.stamp: requirements.lock
	$(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' requirements.lock)"
	$(PIP) -r requirements.lock
	@touch $@
.venv/runtime.stamp: pyproject.toml .venv/pins.stamp
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
.venv/checks.stamp: requirements-dev.lock .venv/runtime.stamp
	$(PIP) -r requirements-dev.lock
	@touch $@
design:
	@set -e; begin=$$SECONDS; $(MAKE) --no-print-directory .venv/runtime.stamp; ready=$$SECONDS; \
	$(BIN)/matmill design --target "band_gap = 2.0 eV" --elements $(ELEMENTS) -n 20 --seed 0 --out runs/first; \
	echo "set-up: $$((ready - begin)) s; run: $$((SECONDS - ready)) s"
lint: .venv/checks.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell src tests docs benchmarks examples *.md
	$(BIN)/lint-imports
type: .venv/checks.stamp
	$(BIN)/pyright
test: lint type
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2
test-slow: .venv/checks.stamp
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -m slow
golden: .venv/checks.stamp
	$(BIN)/pytest tests/golden --rewrite-golden
bench: .venv/checks.stamp
	$(BIN)/matmill benchmark speed
build: .venv/runtime.stamp
	$(BIN)/python -m hatchling build
