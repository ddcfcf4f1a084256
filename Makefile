# make book   read the book          make test       verify everything
# make serve  serve it on localhost  make lab        open the notebooks in JupyterLab
# make bench  compare speeds         make notebooks NB=book/x.ipynb  re-execute notebooks (all without NB)
# make check  before a commit            make gpu        on a machine with a GPU
# make weigh  requests and bytes      make pdf        the book as one PDF
# make epub   the book as an EPUB
# make assignments SEED=7  student versions     make grade SUBMISSIONS=folder SEED=7  marks and feedback
# make marks SEED=7  takes in the marks that were entered by hand

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One worker more than there are cores, since some wait for a browser; a worker takes up to 3 GB. A file to a worker, in
# the order of pyproject.toml: what takes longest begins first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --nbval --nbval-current-env --nbval-cell-timeout=900 \
  -n logical --maxprocesses=4 --dist loadfile --no-loadscope-reorder
NB ?= $(wildcard book/*.ipynb)
PORT ?= 8000
SEED ?= 0
OUT := dist

.DEFAULT_GOAL := book
.PHONY: book serve lab check test gpu weigh pdf epub links lint bench notebooks pins clean assignments grade marks

book: .venv/pages node_modules/.package-lock.json
	$(BIN)/python -m tools.claims --check
	rm -rf _build/html _build/.doctrees
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet
	@echo "The book is built. Open this page: _build/html/index.html"

serve: book
	@echo "The book is at http://localhost:$(PORT)/"
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: .venv/test
	$(BIN)/jupyter lab book

# What pytest needs is installed, then made side by side: none of the three takes more than one core.
test: .venv/test node_modules/.package-lock.json
	$(MAKE) -j 3 lint book epub
	$(PYTEST)

# About a minute on two cores that do nothing else: lint, types, the laws, and the notebook of the proof.
check: lint
	$(PYTEST) --quiet tests/test_cipher.py tests/test_family.py tests/test_theorems.py book/model-encryption.ipynb

# With the Python, the PyTorch and the packages that are there.
gpu:
	$(PYTHON) -m tools.gpu

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

weigh: book .venv/test
	$(BIN)/python -m tools.weigh

pdf: book .venv/test
	$(BIN)/python -m tools.pdf

epub: .venv/pages node_modules/.package-lock.json
	rm -rf _build/epub
	$(BIN)/jupyter-book build . --path-output _build/epub -W -n --keep-going --quiet --builder custom --custom-builder epub
	cp _build/epub/_build/epub/the-mixer-key.epub _build

links: .venv/pages node_modules/.package-lock.json
	$(BIN)/jupyter-book build . --builder linkcheck

bench: .venv/test
	$(PIP) install -c hashes.txt --group bench
	$(BIN)/python -m mixerkey.experiments.speed
	$(BIN)/python -m mixerkey.experiments.growth
	$(BIN)/python -m tools.lab speed

# SEED draws the variant of a class; grade with the one that you have handed out. Another class has another OUT.
assignments: .venv/test
	$(BIN)/python -m assignments build --seed $(SEED) --out "$(OUT)/assignments"

grade: .venv/test node_modules/.package-lock.json
	@test -e "$(SUBMISSIONS)" || { echo "Say which: make grade SUBMISSIONS=folder, with an entry for each student, or the archive of a learning platform"; exit 2; }
	$(BIN)/python -m assignments grade "$(SUBMISSIONS)" --seed $(SEED) --out "$(OUT)/grades"

marks: .venv/test node_modules/.package-lock.json
	$(BIN)/python -m assignments marks --seed $(SEED) --out "$(OUT)/grades"

notebooks: .venv/test
	$(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --inplace \
	  --ExecutePreprocessor.store_widget_state=False --ExecutePreprocessor.record_timing=False \
	  --ExecutePreprocessor.coalesce_streams=True $(NB)

# The hashes of what constraints.txt pins, on every platform; what it does not pin is pinned at its newest.
pins: .venv/pip
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command 'make pins' --all-extras --group pages --group test --group lab --group grading --group bench \
	  -c constraints.txt -o hashes.txt pyproject.toml

clean:
	rm -rf _build .venv node_modules

# One environment; each stamp says what has been added to it.
.venv/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) install 'pip>=25.1'
	@touch $@

.venv/pages: .venv/pip pyproject.toml hashes.txt
	$(PIP) install -c hashes.txt --group pages
	@touch $@

node_modules/.package-lock.json: .venv/pages package-lock.json
	PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --silent
	@touch $@

.venv/test: .venv/pages
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*project["dependencies"], *sum(project["optional-dependencies"].values(), []), sep="\n")' > .venv/package.txt
	$(PIP) install -c hashes.txt -r .venv/package.txt --group test --group lab --group grading
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
