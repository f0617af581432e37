# `make demo` and `make test` are all a newcomer needs; both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check serve parity buckets clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,onnx,dev]'
	@touch $@

demo: .venv/ready
	$(BIN)/annotune demo

test: .venv/ready
	$(BIN)/pytest

test-all: .venv/ready
	$(BIN)/pytest -m ''

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Prefect server, process pool and worker on this machine, with everything deployed; Ctrl-C stops all of it.
serve: .venv/ready
	$(BIN)/annotune serve

# Our own detectors against mmdetection's, with the same weights; it lives in an environment of its own.
.venv-parity/ready: pyproject.toml
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,dev]'
	.venv-parity/bin/pip install --quiet --disable-pip-version-check mmdet==3.3.0 mmengine mmcv-lite==2.1.0
	@touch $@

parity: .venv-parity/ready
	.venv-parity/bin/python -m pytest tests/test_parity_mmdet.py tests/test_parity_mmdet_weights.py -W ignore -rP

# Checkpoints and a registry of models in buckets, on an S3 server and a Google Storage emulator of this machine.
.venv-buckets/ready: pyproject.toml
	$(PYTHON) -m venv .venv-buckets
	.venv-buckets/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,dev]'
	# In one go, and as new as they like: moto and s3fs share botocore.
	.venv-buckets/bin/pip install --quiet --disable-pip-version-check s3fs gcsfs 'moto[server]==5.2.5' \
		gcp-storage-emulator==2026.7.19
	@touch $@

buckets: .venv-buckets/ready
	.venv-buckets/bin/python -m pytest tests/test_buckets.py -W ignore

clean:
	rm -rf .venv .venv-parity .venv-buckets .demo
