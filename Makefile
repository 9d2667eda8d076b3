# What .ci/run calls, one target per step. `make setup` in a virtual environment prepares it for all the others.
.PHONY: setup test network tutorial browser slurm lint types docs demo

setup:
	pip install -e ".[dev]"
	pre-commit install

test:
	pytest

# The quick checks on another Python: make python3.12.
QUICK = tests/test_*.py tests/training/test_recipe.py tests/training/test_tracker.py tests/evaluation/test_sweep.py \
	tests/cli/test_flags.py

python3.%: build/python3.%/ready
	OMP_NUM_THREADS=1 build/python3.$*/bin/python -m pytest -n 0 -p no:cacheprovider $(QUICK)

# uv links the files that environments share, most of all those of CUDA, instead of installing them again.
build/python3.%/ready: pyproject.toml
	rm -rf build/python3.$*
	uv venv --system-certs --python 3.$* build/python3.$*
	uv pip install --system-certs --python build/python3.$*/bin/python . pytest pytest-xdist
	# torchattacks brings an old copy of RobustBench, and uv installs them in any order.
	uv pip install --system-certs --python build/python3.$*/bin/python --reinstall --no-deps robustbench
	touch $@

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
