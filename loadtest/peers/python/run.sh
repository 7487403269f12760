#!/usr/bin/env bash
# make bench-peers: Marquee and the stack that a team would otherwise write, side by side in one run.
#
#   PEERS_CONFIG=FILE   marquee.toml of a store with a serving bundle that nobody has written to since it was built
#                       (default: that of `make synthetic ITEMS=100000`, else the demo's)
#   PEERS_ARGS="..."    more arguments for bench.py: --users, --seconds, --repetitions, --connections ...
#
# Everything it installs is in .marquee/peers, but for redis-server: taken from the PATH, else installed with apt-get by root.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../../.."

# What a machine sets for its own OpenBLAS would slow down numpy's.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE

folder=.marquee/peers
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$folder"

fail() {
  printf 'bench-peers: %s\n' "$@" >&2
  exit 1
}

config="${PEERS_CONFIG:-}"
for found in .marquee/synthetic/100000/marquee.toml .marquee/demo/marquee.toml; do
  [[ -n "$config" || ! -f "$found" ]] || config="$found"
done
[[ -f "$config" ]] || fail "no state to serve: run \`make synthetic ITEMS=100000\` or \`make demo\` first, or name one with PEERS_CONFIG=FILE"

if ! command -v redis-server >/dev/null; then
  command -v apt-get >/dev/null || fail "redis-server is needed and was not found: install Redis 7 or later"
  [[ $(id -u) == 0 ]] || fail "redis-server is needed and was not found: sudo apt-get install redis-server"
  apt-get install --yes --no-install-recommends redis-server >"$folder/apt.log" 2>&1 ||
    fail "apt-get install redis-server failed; $folder/apt.log says why"
fi

wanted="$(sha256sum <"$here/requirements.txt")"
if [[ ! -f "$folder/installed" || "$(<"$folder/installed")" != "$wanted" ]]; then
  echo "Installing the peer's packages (a minute; hnswlib is compiled and needs a C++ compiler)"
  uv="$(.ci/tool uv)"
  rm -f "$folder/installed"
  "$uv" venv --quiet --clear "$folder/venv"
  "$uv" pip install --quiet --python "$folder/venv/bin/python" --require-hashes --requirement "$here/requirements.txt"
  printf '%s' "$wanted" >"$folder/installed"
fi

# shellcheck disable=SC2086
exec "$folder/venv/bin/python" "$here/bench.py" --marquee "$target/release/marquee" --config "$config" \
  --work "$folder/work" --json "$folder/result.json" ${PEERS_ARGS:-}
