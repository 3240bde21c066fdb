# Everything a newcomer needs: `make serve` runs the service, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2
KERNEL_TESTS := tests/acquisition $(patsubst %,tests/model/test_%.py,posterior quality checkpoint staleness bots) \
  tests/model/test_neural.py::test_what_the_decoder_says_of_no_text_is_the_level_alone
TRAINERS := $(patsubst tests/adapters/%/requirements.txt,%,$(wildcard tests/adapters/*/requirements.txt))

.PHONY: serve demo demo-quick test test-kernels browser swagger-ui soak lint bench-latency bench-replay bench-rl bench-testtime bench-sizing clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/service.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "promptgps needs Python 3.11 or later; say which: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip hatchling editables
	$(PIP) torch
	$(PIP) --no-build-isolation --editable '.[service]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/service.stamp
	$(PIP) --group test --group bench
	@touch $@

serve: $(VENV)/service.stamp  ## serve on 127.0.0.1:8000 with an embedded database
	$(BIN)/promptgps serve

demo: $(VENV)/test.stamp  ## a real small RL training against the service: uniform, then the default (minutes)
	$(BIN)/python -m benchmarks.rl.demo

demo-quick: $(VENV)/test.stamp  ## the same in under a minute
	$(BIN)/python -m benchmarks.rl.demo --quick

lint: $(VENV)/test.stamp  ## style, types, layers
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## style, types, layers, the whole test suite, and each adapter with its real trainer
	$(BIN)/pytest -n $(WORKERS)
	$(MAKE) --no-print-directory test-kernels
	$(MAKE) --no-print-directory $(TRAINERS:%=test-%)

# Another processor rounds otherwise: no test may depend on the last bits of a kernel.
test-kernels: $(VENV)/test.stamp  ## the quick tests of the maths with torch's plainest kernels (a minute)
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE $(BIN)/pytest -q -n $(WORKERS) $(KERNEL_TESTS)

browser:  ## install the browser that tests look at pages with, where there is none (Debian, as root)
	@command -v chromium chromium-browser google-chrome > /dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium; }

# The files that /docs is made of; everything of the package that a browser does not ask for stays out.
SWAGGER_UI := service/promptgps_service/web/docs/swagger-ui
swagger-ui:  ## renew the vendored files of Swagger UI, or take VERSION=… of them
	npm pack --silent --pack-destination /tmp swagger-ui-dist@$${VERSION:-latest} > /tmp/swagger-ui.name
	tar --extract --gzip --file /tmp/$$(cat /tmp/swagger-ui.name) --directory $(SWAGGER_UI) --strip-components 1 \
	  package/LICENSE package/NOTICE package/swagger-ui-bundle.js package/swagger-ui-bundle.js.LICENSE.txt \
	  package/swagger-ui.css package/favicon-32x32.png
	sed -n 's/^swagger-ui-dist-\(.*\)\.tgz$$/\1/p' /tmp/swagger-ui.name > $(SWAGGER_UI)/VERSION

# Each trainer has an environment of its own, in which only the client is installed; the service runs in ours. The pins
# are all that is installed: what a trainer asks for and these tests never import (wandb, tensorboard, …) stays out.
.venv-%/stamp: tests/adapters/%/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

test-%: .venv-%/stamp $(VENV)/service.stamp
	PROMPTGPS_SERVICE=$(CURDIR)/$(BIN)/python .venv-$*/bin/pytest tests/adapters/$* --confcutdir=tests/adapters -W ignore --timeout 900

.PRECIOUS: .venv-%/stamp

soak: $(VENV)/test.stamp  ## clients, replicas and workers on PostgreSQL, one killed every few seconds (ten minutes)
	PROMPTGPS_SOAK_SECONDS=$${PROMPTGPS_SOAK_SECONDS:-600} $(BIN)/pytest tests/faults/test_soak.py -o log_cli=true --log-cli-level=WARNING

bench-latency: $(VENV)/test.stamp  ## latency over loopback beside an in-process MoPPS
	$(BIN)/python -m benchmarks.latency

bench-replay: $(VENV)/test.stamp  ## prediction and choice on recorded histories and a simulated learner (an hour)
	$(BIN)/python -m benchmarks.replay.bench

bench-rl: $(VENV)/test.stamp  ## rollouts to accuracy in the small RL run, all strategies and seeds (an hour or more)
	$(BIN)/python -m benchmarks.rl.bench

bench-testtime: $(VENV)/test.stamp  ## test-time budgets on recorded histories: prompts solved by so many samples (half an hour)
	$(BIN)/python -m benchmarks.testtime.bench

bench-sizing: $(VENV)/test.stamp  ## memory by prompts and disk by rollouts
	$(BIN)/python -m benchmarks.sizing

clean:  ## remove the environment and caches
	rm -rf $(VENV) $(TRAINERS:%=.venv-%) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
