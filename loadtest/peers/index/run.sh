#!/usr/bin/env bash
# run.sh SIZE [MORE]: our index beside hnswlib and usearch, same vectors, one run; MORE goes to bench.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
venv=.marquee/peers/index/venv
if ! cmp -s loadtest/peers/index/requirements.txt "$venv/requirements.txt"; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement loadtest/peers/index/requirements.txt
    cp loadtest/peers/index/requirements.txt "$venv/"
fi
cargo build --quiet --release --workspace --bins --examples
exec "$venv/bin/python" loadtest/peers/index/bench.py --size "$1" --ours "${CARGO_TARGET_DIR:-target}/release/examples/index_peer" "${@:2}"
