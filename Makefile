# One command for each thing one does here; `make help` lists them.

PY := .venv/bin/python
NATIVE_INPUTS := $(shell find csrc bpf -name '*.[ch]' -o -name '*.py') pyproject.toml
C_FILES = $(shell git ls-files 'csrc/*.[ch]' 'bpf/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]')

.PHONY: fast test long chaos demo e2e kube-build e2e-kube image lint golden run setup native clean help
.DEFAULT_GOAL := fast

fast: native ## build and fast tests: no root, under 20 seconds once set up (the default)
	$(PY) -m pytest -m "not slow and not root"

test: native lint ## everything that continuous integration runs; needs root
	@[ "$$(id -u)" = 0 ] || { echo "make test: needs root (BPF, network namespaces); 'make' runs the fast tests without" >&2; exit 1; }
	@$(MAKE) --no-print-directory -j2 kube-build image
	$(PY) -m pytest

long: native ## the long forms: all image mutants, full publish run, fuzzing for 10 minutes a target
	EDGE_LONG=1 $(PY) -m pytest
	$(PY) -m tests.fuzz.run image 600
	$(PY) -m tests.fuzz.run h1_parse 600

chaos: native ## the survival program: deaths, upgrades, hand-overs, reboots, faults; a table; needs root
	@[ "$$(id -u)" = 0 ] || { echo "make chaos: needs root (BPF, network namespaces)" >&2; exit 1; }
	$(PY) -m tests.e2e.survival.chaos --times $(or $(TIMES),10) --cycles $(or $(CYCLES),100)

demo: native ## XDP, data plane and upstreams in namespaces; ONCE=1 ends by itself
	@[ "$$(id -u)" = 0 ] || { echo "make demo: needs root (BPF, network namespaces)" >&2; exit 1; }
	$(PY) -m tests.e2e.demo $(if $(ONCE),--once)

e2e: native ## the end-to-end stories alone; needs root
	$(PY) -m pytest tests/e2e

e2e-kube: native kube-build ## all stories on a real Kubernetes of three nodes, long forms too; needs root
	@[ "$$(id -u)" = 0 ] || { echo "make e2e-kube: needs root (namespaces, containers)" >&2; exit 1; }
	EDGE_KUBE_NODES=3 EDGE_LONG=1 $(PY) -m pytest tests/kube --durations=15

kube-build: setup ## Kubernetes' programs from the Go module proxy into the cache: 5 minutes once
	$(PY) -m tests.kube.build

image: setup ## the container image, build/image/xdp-edge.tar, without a container engine; needs root; TARGET=bcc
	$(PY) -m manifests.image.build --target $(or $(TARGET),edge)

lint: native ## format, lint, types, import contracts
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/clang-format --dry-run -Werror $(C_FILES)

golden: native ## rewrite the golden cases; git diff judges
	EDGE_GOLDEN=write $(PY) -m pytest tests/golden -p no:randomly

run: native ## a proxy on loopback from YAML: make run CONFIG=manifests/examples
	.venv/bin/edge run --config $(CONFIG) --http 127.0.0.1:8080 --xdp off --run-dir build/run --state-dir build/state

setup: ## Debian packages, .venv, Python packages
	@.ci/setup

native: setup .venv/.native ## build the C data plane into .venv

.venv/.native: $(NATIVE_INPUTS)
	@.ci/setup
	@mkdir -p build && echo "building the data plane" && \
	if ! .venv/bin/pip install -q --disable-pip-version-check -e . --no-deps --no-build-isolation >build/native.log 2>&1; \
	then tail -n 40 build/native.log; exit 1; fi
	@touch $@

clean: ## remove what was built, .venv included
	rm -rf build .venv *.egg-info edge/native/*.so

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | awk -F'|' '{printf "%-10s %s\n", $$1, $$2}'
