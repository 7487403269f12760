#!/usr/bin/env bash
# Events from Kafka into PostgreSQL beside psql's COPY of the same rows, as text; exits with 1 when a result is wrong or,
# in a long run, memory grows. Arguments go to loadtest/ingest: --events, --rounds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo build --release --workspace --bins --examples --quiet
PYTHONPATH=server:loadtest exec python3 -m ingest --binaries "${CARGO_TARGET_DIR:-target}/release" "$@"
