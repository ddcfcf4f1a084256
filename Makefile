# make book   read the book          make test       verify everything
# make serve  serve it on localhost  make lab        open the notebooks in JupyterLab
# make bench  compare speeds         make notebooks NB=book/x.ipynb  re-execute notebooks (all without NB)

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NB ?= $(wildcard book/*.ipynb)
PORT ?= 8000

.DEFAULT_GOAL := book
.PHONY: book serve lab test lint bench notebooks clean

book: .venv/pages
	$(BIN)/python tools/claims.py --check
	rm -rf _build
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@echo "The book is built. Open this page: _build/html/index.html"

serve: book
	@echo "The book is at http://localhost:$(PORT)/"
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: .venv/lab
	$(BIN)/jupyter lab book

test: lint book .venv/test
	$(BIN)/pytest --nbval --nbval-current-env --nbval-cell-timeout=900

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/test
	$(BIN)/python -m benchmarks

notebooks: .venv/test
	$(BIN)/jupyter execute --inplace $(NB)

clean:
	rm -rf _build .venv

# One environment; each stamp says what has been added to it.
.venv/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) install 'pip>=25.1'
	@touch $@

.venv/pages: .venv/pip pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt --group pages
	@touch $@

.venv/test: .venv/pages
	$(PIP) install -c constraints.txt --group test -e '.[book,service]'
	@touch $@

.venv/lab: .venv/test
	$(PIP) install -c constraints.txt --group lab
	@touch $@
