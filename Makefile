# Two commands on a fresh machine: `make demo` and `make test`. Both install what they need, the
# first without torch, into an environment of its own.
PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
FLOWER_VENV ?= .venv-flower
BIN := $(VENV)/bin
# Which tests: without those that take many seconds each or need a peer from Debian
# (`make test-live`); `make test MARK=` runs all, as CI does.
MARK ?= not slow and not live
# Processes that run tests, each with one thread; a file's tests stay together.
JOBS ?= 2
# How often a test that failed is tried again; CI does so once and names it (CONTRIBUTING.md).
RERUNS ?= 0
EXTRAS ?= cpu,torch,camera,mqtt,metrics,report,web,demo,test,dev,docs,tensorrt-rtx
# What a device has; `make test-device PYTHON=python3.10` runs the tests that need no more.
DEVICE_EXTRAS ?= cpu,mqtt,metrics,demo,test
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-device test-live test-gpu flower docs types format jetson clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-cache-dir --quiet -e '.[$(EXTRAS)]'
	@touch $@

$(DEMO_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip install --no-cache-dir --no-compile --quiet -e '.[cpu,demo]'
	@touch $@

demo: $(DEMO_VENV)/installed
	$(DEMO_VENV)/bin/edgecl demo

test: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory types
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile -m "$(MARK)" \
		--reruns $(RERUNS) -rfER

# Without torch, on the interpreter named by PYTHON: which tests need none is seen by their imports.
# DEVICE_TESTS names some of them only.
test-device: DEVICE_VENV = .venv-device-$(notdir $(PYTHON))
test-device:
	$(PYTHON) -m venv $(DEVICE_VENV)
	$(DEVICE_VENV)/bin/pip install --no-cache-dir --quiet -e '.[$(DEVICE_EXTRAS)]'
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(DEVICE_VENV)/bin/pytest --device -n $(JOBS) \
		--dist loadfile -m "not slow and not live and not gpu" --reruns $(RERUNS) -rsfER \
		$(DEVICE_TESTS)

# Broker, RTSP server, GStreamer and browser on loopback; what Debian packages they need says .ci/run.
test-live: $(VENV)/installed
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -m live

# On a machine with a GPU, from this checkout and wheels that lie in a folder; needs no network. Tests
# and a table, at most MINUTES long. Elsewhere it says what is missing.
WHEELS ?= wheels
MINUTES ?= 10
test-gpu:
	$(PYTHON) packaging/run_gpu_tests.py --wheels $(WHEELS) --minutes $(MINUTES)

# The carrier of a fleet on Flower, whose pins stay out of the other environments (300 MB).
flower: $(FLOWER_VENV)/installed

$(FLOWER_VENV)/installed: packaging/edgecl-flower/pyproject.toml
	$(PYTHON) -m venv $(FLOWER_VENV)
	$(FLOWER_VENV)/bin/pip install --no-cache-dir --quiet -e packaging/edgecl-flower
	@touch $@

# Into .site/html; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict

# The packages of runtime/ and exporters/ are whole only in an installed tree, so that is checked.
types: $(VENV)/installed
	rm -rf .typecheck build
	$(BIN)/pip install --no-cache-dir --quiet --no-deps --target .typecheck .
	$(BIN)/mypy .typecheck/edgecl
	rm -rf .typecheck build

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# On a Jetson with JetPack 6 or 7 (docs/jetson.md). TensorRT and OpenCV are the system's, so a venv that
# sees them; neither torch nor an OpenCV wheel is installed.
jetson:
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --no-cache-dir --quiet -e '.[cpu]' 'cuda-bindings>=12.6.1'
	$(BIN)/python -c 'import tensorrt; print("TensorRT", tensorrt.__version__)'
	$(BIN)/edgecl doctor

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(FLOWER_VENV) .venv-device-* .venv-gpu .typecheck build .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache .site
