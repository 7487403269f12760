#!/usr/bin/env bash
# Server CPU of an answer that comes from Redis beside that of a bare tonic handler of one GET, as a table; exits with 1
# above 1.3 and for a wrong answer. It starts a Redis of its own and stops it.
# Arguments go to `marquee-loadtest floor`: --rounds, --seconds, --connections, --in-flight, --at-most, --profiles-too.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace --bins --examples --quiet
folder="$PWD/.marquee/bench-redis"
testkit() { PYTHONPATH=server python3 -m testkit "$@" --folder "$folder"; }
trap 'testkit stop' EXIT
eval "$(testkit start --only redis)"
"${CARGO_TARGET_DIR:-target}/release/marquee-loadtest" floor --redis "$MARQUEE_TEST_REDIS" "$@"
