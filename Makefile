# The verbs. Each is a line or two; what is longer is a script. CARGO_TARGET_DIR is honoured.
#
# Needed on the machine: Rust, Python 3.11 or later, and for `make check` Node.js. The rest is fetched into .marquee/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
PYTHON := models/.venv/bin/python
export CARGO_TERM_PROGRESS_WHEN ?= auto

##@ Use

.PHONY: demo
demo: ## Train on real ratings, serve, watch a slate change. DEMO_ONCE=1: leave after the tour. DEMO_RETRAIN=1: train anew
	@bash models/demo/demo.sh

.PHONY: evaluate
evaluate: ## The evaluation table, every baseline beside our slates (takes minutes)
	@bash models/demo/evaluate.sh

##@ Develop

.PHONY: test
test: test-rust test-python ## All tests; set MARQUEE_DATA to a folder with ml-latest-small for those that need it

.PHONY: test-rust
test-rust: ## Unit, property, golden and service tests
	cargo test --workspace

.PHONY: test-python
test-python: models/.venv/stamp ## Tests of the package, then end to end against a real server
	@# With the examples, the features of dependencies are those of the tests: nothing is compiled twice.
	cargo build --workspace --bins --examples
	cd models && MARQUEE_BIN_DIR="$(abspath $(TARGET))/debug" .venv/bin/python -m pytest -rs

.PHONY: check
check: models/.venv/stamp ## What CI runs before the tests: format, lints, types, protos, rules of the house
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	bash .ci/protos
	cd models && .venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy
	$(PYTHON) .ci/house.py

.PHONY: bench
bench: ## Recall and time of the vector index, as a table
	MARQUEE_FULL_SIZE=1 cargo test --release --workspace --lib index::tests::recall -- --nocapture --test-threads 1

##@ At full size

.PHONY: kill-test
kill-test: models/.venv/stamp ## kill -9 within 100,000 streamed events; every acknowledged one must be there once
	cargo build --release --workspace
	cd models && MARQUEE_BIN_DIR="$(abspath $(TARGET))/release" MARQUEE_KILL_EVENTS=100000 .venv/bin/python -m pytest -rs -s tests/e2e/test_kill.py

.PHONY: skew-test
skew-test: models/.venv/stamp ## 1,000 live requests with events between; served and replayed feature rows must be equal bit for bit
	cargo build --release --workspace
	cd models && MARQUEE_BIN_DIR="$(abspath $(TARGET))/release" MARQUEE_SKEW_REQUESTS=1000 .venv/bin/python -m pytest -rs -s tests/e2e/test_skew.py

##@ Load

.PHONY: load
load: ## Highest rate within the SLO, as a report in .marquee/load. STATE=FOLDER PROFILE=FILE SLO=p99=25ms; see docs/loadtest.md
	@bash loadtest/drive.sh load

.PHONY: overload
overload: ## Three times that rate, server and generator on one core each: goodput, refusals, health, recovery
	@bash loadtest/drive.sh overload

.PHONY: soak
soak: ## Half of that rate for MINUTES=30, with events: memory, errors, drift
	@bash loadtest/drive.sh soak

##@ House

models/.venv/stamp: models/pyproject.toml models/uv.lock
	cd models && "$$(../.ci/tool uv)" sync --frozen --quiet
	@touch $@

.PHONY: clean
clean: ## Remove everything that was built, fetched or trained
	cargo clean
	rm -rf .marquee models/.venv models/.ruff_cache models/.mypy_cache models/.pytest_cache

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
