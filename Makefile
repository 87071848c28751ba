# make design: 20 crystals from shipped weights; make test: all checks. Both set up what they need.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
BEGIN := $(shell date +%s)
ELEMENTS := Li,Na,Mg,Al,Si,P,S,Zn,Ga,Ge,N,O,F,Cl,Se,Br,In,Sn,Sb,Te
.PHONY: setup design lint type test test-slow build
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
design: .venv/runtime.stamp
	@set -e; ready=$$(date +%s); \
	$(BIN)/matmill design --target "band_gap = 2.0 eV" --elements $(ELEMENTS) -n 20 --seed 0 --out runs/first --resume; \
	echo "set-up: $$((ready - $(BEGIN))) s; run: $$(($$(date +%s) - ready)) s"
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
build: .venv/runtime.stamp
	$(BIN)/python -m hatchling build
