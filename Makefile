# What .ci/run calls, one target per step. `make setup` in a virtual environment prepares it for all the others.
.PHONY: setup test network tutorial browser slurm lint types docs demo

setup:
	pip install -e ".[dev]"
	pre-commit install

test:
	pytest

network:
	pytest -n 0 -m network

tutorial:
	pytest -n 0 -m slow tests/docs

browser:
	pytest -n 0 -m browser

slurm:
	pytest -n 0 -m slurm

lint:
	ruff check .
	ruff format --check .

types:
	mypy

# An environment of its own, because torchattacks needs an older requests than the theme. It needs no torch: the API
# pages are read from the source. The variable silences what the theme says about other site generators.
docs: build/docs/bin/mkdocs
	PATH="$(CURDIR)/build/docs/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict

build/docs/bin/mkdocs: docs/requirements.txt
	python3 -m venv build/docs
	build/docs/bin/pip install -r docs/requirements.txt
	touch $@

demo:
	ibrobust demo
