# The verbs. Each is a line or two; what is longer is a script. CARGO_TARGET_DIR is honoured.
#
# Needed on the machine: Rust, Python 3.11 or later, and for `make check` Node.js. The rest is fetched into .marquee/;
# the tests' servers (PostgreSQL, Redis, Java for Kafka) come from Debian's packages where they are not there.

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
test: ## All tests, beside real servers; set MARQUEE_DATA to a folder with ml-latest-small for those that need it
	.ci/with-services $(MAKE) test-rust test-python

.PHONY: test-rust
test-rust: ## Unit, property, golden and service tests
	.ci/with-services cargo test --workspace

.PHONY: test-python
test-python: models/.venv/stamp ## Tests of the package, then end to end against a real server
	@# With the examples, the features of dependencies are those of the tests: nothing is compiled twice.
	cargo build --workspace --bins --examples
	cd models && MARQUEE_BIN_DIR="$(abspath $(TARGET))/debug" ../.ci/with-services .venv/bin/python -m pytest -rs

.PHONY: services
services: ## Start the tests' servers for this shell: eval "$$(make --silent services)"
	@cd server && python3 -m testkit start

.PHONY: services-stop
services-stop: ## Stop them
	@cd server && python3 -m testkit stop

.PHONY: check
check: models/.venv/stamp ## What CI runs before the tests: format, lints, types, protos, rules of the house
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	bash .ci/protos
	cd models && .venv/bin/ruff format --check --config pyproject.toml . ../server/testkit ../loadtest/ingest
	cd models && .venv/bin/ruff check --config pyproject.toml . ../server/testkit ../loadtest/ingest && .venv/bin/mypy
	bash .ci/peers
	$(PYTHON) .ci/house.py

##@ Measure

# 1,000,000 items, too, once they are there (make synthetic ITEMS=1000000).
BENCH_ITEMS := $(or $(ITEMS),10000 100000 $(notdir $(wildcard .marquee/synthetic/1000000)))

.PHONY: synthetic
synthetic: models/.venv/stamp ## A synthetic catalogue with users, ready to serve: ITEMS=100000 [USERS=25000] [SEED=1]
	@bash loadtest/synthetic.sh

.PHONY: bench
bench: models/.venv/stamp ## CPU of each index, source and stage, the ranker and the whole; results are checked. ITEMS="10000 100000"
	@bash loadtest/bench.sh "$(BENCH_ITEMS)" $(BENCH_ARGS)

.PHONY: bench-instructions
bench-instructions: models/.venv/stamp ## As bench, with instructions as callgrind counts them (needs valgrind)
	@bash loadtest/bench.sh "$(BENCH_ITEMS)" --instructions --people 30 $(BENCH_ARGS)

.PHONY: bench-whole
bench-whole: models/.venv/stamp ## A whole ranked request beside the sum of its parts, in one run
	@bash loadtest/bench.sh "$(or $(ITEMS),100000)" --whole $(BENCH_ARGS)

.PHONY: bench-server
bench-server: models/.venv/stamp ## A server's CPU for a ranked request beside the engine's and the parts'
	@bash loadtest/bench.sh "$(or $(ITEMS),100000)" --server "$(abspath $(TARGET))/release/marquee" $(BENCH_ARGS)

.PHONY: bench-events
bench-events: models/.venv/stamp ## What an event costs the next request of its user, by the length of the history
	@bash loadtest/bench.sh "$(or $(ITEMS),100000)" --events "$(abspath $(TARGET))/release/marquee" $(BENCH_ARGS)

.PHONY: bench-growth
bench-growth: models/.venv/stamp ## A request and each source at 1,000,000 items beside 10,000
	@bash loadtest/bench.sh "$(or $(ITEMS),10000 1000000)" --growth $(BENCH_ARGS)

.PHONY: bench-memory
bench-memory: models/.venv/stamp ## Start-up and resident memory of several sizes, and what a million more items or users take
	@bash loadtest/bench.sh "$(or $(ITEMS),100000 100000-100000 1000000)" --memory $(BENCH_ARGS)

.PHONY: bench-index
bench-index: ## Our index beside hnswlib and usearch, same vectors, one run; SIZE=1000000 takes many minutes
	@bash loadtest/peers/index/run.sh $(or $(SIZE),100000)

.PHONY: bench-ranker
bench-ranker: models/.venv/stamp ## Our ranker beside onnxruntime on the same models and rows: trees and dense networks, one thread each
	cargo build --release --workspace --bins --examples
	PYTHONPATH=models $(PYTHON) loadtest/peers/ranker/bench.py --ours "$(abspath $(TARGET))/release/examples/ranker_peer"

.PHONY: bench-recall
bench-recall: ## Recall and time of graphs at full size, from hnsw_rs and from our own builder (takes minutes)
	MARQUEE_FULL_SIZE=1 cargo test --workspace --lib index::tests::recall -- --nocapture --test-threads 1

.PHONY: bench-floor
bench-floor: ## Server CPU of a cached answer beside a bare tonic echo of the same slate
	@bash loadtest/floor.sh

.PHONY: bench-ingest
bench-ingest: ## Events through Kafka into PostgreSQL beside psql's COPY of the same rows, and memory. EVENTS=1000000 ROUNDS=3
	@bash loadtest/ingest.sh --events $(or $(EVENTS),1000000) --rounds $(or $(ROUNDS),3)

.PHONY: bench-redis
bench-redis: ## Server CPU of an answer that comes from Redis beside a bare tonic handler of one GET of the same bytes
	@bash loadtest/floor_redis.sh

.PHONY: bench-redis-memory
bench-redis-memory: models/.venv/stamp ## Bytes a user in Redis: USERS=100000 with real users' histories (MARQUEE_DATA, else made-up ones)
	cargo build --release --workspace --bins --examples
	cd models && MARQUEE_BIN_DIR="$(abspath $(TARGET))/release" MARQUEE_MEMORY_USERS=$(or $(USERS),100000) \
	  .venv/bin/python -m pytest -rs -s tests/e2e/test_redis_memory.py

##@ At full size

.PHONY: kill-test
kill-test: models/.venv/stamp ## kill -9 within 100,000 streamed events; every acknowledged one must be there once
	cargo build --release --workspace --bins --examples
	cd models && MARQUEE_BIN_DIR="$(abspath $(TARGET))/release" MARQUEE_KILL_EVENTS=100000 .venv/bin/python -m pytest -rs -s tests/e2e/test_kill.py

.PHONY: fault-test
fault-test: models/.venv/stamp ## Each server under Marquee fails for FAULT_SECONDS=60, alone and two at once; 10,000 reads of others' writes; 10 rolling restarts
	cargo build --release --workspace --bins --examples
	cd models && MARQUEE_BIN_DIR="$(abspath $(TARGET))/release" MARQUEE_FAULT_SECONDS=$(or $(FAULT_SECONDS),60) \
	  MARQUEE_FRESH_EVENTS=10000 MARQUEE_ROLLING_ROUNDS=10 .venv/bin/python -m pytest -rs -s \
	  tests/e2e/test_faults.py tests/e2e/test_fresh.py tests/e2e/test_rolling.py

.PHONY: bench-peers
bench-peers: ## Marquee beside FastAPI + gunicorn + Redis + hnswlib + onnxruntime: equal slates, then CPU, rate and latency of each
	cargo build --release --workspace --bins --examples
	bash loadtest/peers/python/run.sh

.PHONY: skew-test
skew-test: models/.venv/stamp ## 1,000 live requests with events between; served and replayed feature rows must be equal bit for bit
	cargo build --release --workspace --bins --examples
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
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
