#!/usr/bin/env bash
# Server CPU of a cached answer beside that of a bare tonic echo of the same slate, as a table; exits with 1 above 1.1.
# Arguments go to `marquee-loadtest floor`: --rounds, --seconds, --connections, --in-flight, --at-most.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --workspace --bins --examples --quiet
exec "${CARGO_TARGET_DIR:-target}/release/marquee-loadtest" floor "$@"
