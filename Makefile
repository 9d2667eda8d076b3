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

# The variable silences what the theme says about other site generators.
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

demo:
	ibrobust demo
