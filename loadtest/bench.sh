#!/usr/bin/env bash
# bench.sh "SIZES" OPTIONS...: makes what is missing of the synthetic catalogues of these sizes, then runs the benchmarks.
# A size is a number of items, or items-users. docs/bench.md says what is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
sizes="$1"
shift
for size in $sizes; do
  [[ -f ".marquee/synthetic/$size/stamps/bundle" ]] || SIZE="$size" bash loadtest/synthetic.sh
done
cargo build --release --workspace --bins --examples --quiet
# shellcheck disable=SC2086 # the sizes are words
"${CARGO_TARGET_DIR:-target}/release/marquee-bench" $sizes "$@"
