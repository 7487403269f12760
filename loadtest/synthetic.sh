#!/usr/bin/env bash
# make synthetic ITEMS=100000 [USERS=25000] [SEED=1] [THREADS=2]: a synthetic catalogue in .marquee/synthetic/ITEMS (or
# ITEMS-USERS), ready to serve:
#     marquee --config .marquee/synthetic/ITEMS/marquee.toml serve
# Users, events and models go the way of real ones: import, export, bundle build, activate. Each step is done once.
#   import/ models/ rows.safetensors members.jsonl   what was generated (booster.json in models/ is XGBoost's own)
#   marquee.toml marquee.db export/ bundles/         the deployment
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

size="${SIZE:-${ITEMS:-100000}${USERS:+-$USERS}}" seed="${SEED:-1}" threads="${THREADS:-2}"
[[ "$size" =~ ^([0-9]+)(-([0-9]+))?$ ]] || { echo "ITEMS and USERS must be numbers" >&2; exit 64; }
items="${BASH_REMATCH[1]}" wanted="${BASH_REMATCH[3]:-}"
state=".marquee/synthetic/$size"
release="${CARGO_TARGET_DIR:-target}/release"
python=models/.venv/bin/python
users=()
[[ -z "$wanted" ]] || users=(--users "$wanted")
mkdir -p "$state"

# once NAME COMMAND...: skipped while its stamp holds the same settings; what comes after a step is done anew, too.
key="items $items users ${wanted:-default} seed $seed"
anew=''
once() {
  local name="$1" began=$SECONDS
  shift
  if [[ -z "$anew" && -f "$state/stamps/$name" && "$(<"$state/stamps/$name")" == "$key" ]]; then return; fi
  anew=yes
  rm -f "$state/stamps/$name"
  echo "synthetic: $name"
  "$@"
  echo "synthetic: $name took $((SECONDS - began)) s"
  mkdir -p "$state/stamps"
  printf '%s' "$key" >"$state/stamps/$name"
}

marquee() { "$release/marquee" --config "$state/marquee.toml" "$@"; }

# The log ends on 2025-01-01; the clock goes on from there. The cache is off: what is measured is ranking. Budgets are
# three times the default ones, so that the sources' union is more than the 500 candidates that are ranked.
config() {
  cat >"$state/marquee.toml" <<TOML
# Written by make synthetic.
[server]
listen = "127.0.0.1:${PORT:-50151}"
admin_listen = "127.0.0.1:$((${PORT:-50151} + 1))"
metrics_listen = "127.0.0.1:$((${PORT:-50151} + 2))"
clock_offset_ms = $((1735689600000 - $(date +%s) * 1000))

[store]
url = "sqlite://$state/marquee.db"

[artifacts]
url = "file://$state/bundles"

[cache]
max_bytes = 0

[events]
quarantine_folder = "$state/quarantine"

[slate_log]
enabled = false

[variants.default.sources]
cooccurrence = { weight = 1.0, budget_items = 180 }
cooccurrence_short = { weight = 1.0, budget_items = 180 }
cooccurrence_whole = { weight = 0.5, budget_items = 240 }
liked_whole = { weight = 1.0, budget_items = 240 }
transitions = { weight = 0.7, budget_items = 180 }
transitions_liked = { weight = 0.7, budget_items = 180 }
embedding_recent = { weight = 0.5, budget_items = 180 }
user_neighbours = { weight = 0.7, budget_items = 120 }
content = { weight = 0.2, budget_items = 120 }
popular = { weight = 0.5, budget_items = 180 }
popular_day = { weight = 0.2, budget_items = 60 }
fresh = { weight = 0.05, budget_items = 30 }

[log]
level = "warn"
TOML
}

generate() {
  "$release/marquee-loadtest" generate --items "$items" "${users[@]}" --seed "$seed" --out "$state"
}

import() {
  rm -f "$state"/marquee.db*
  marquee import --layout marquee --events-max 100000000 "$state/import"
}

export_arrays() {
  rm -rf "$state/export"
  marquee export --out "$state/export"
  # The generator numbered users and words as an export does: else rows of arrays would be other rows.
  cmp "$state/export/vocabulary.jsonl" "$state/models/vocabulary.jsonl"
  cmp "$state/export/items.jsonl" "$state/import/items.jsonl"
}

ranker() { PYTHONPATH=models "$python" loadtest/synthetic_ranker.py "$state/rows.safetensors" "$state/models"; }

bundle() {
  rm -rf "$state/bundles"
  marquee bundle build --data "$state/export" --models "$state/models" --out "$state/bundles" \
    --version synthetic --threads "$threads"
  marquee bundle activate synthetic
}

cargo build --release --workspace --bins --examples
config
once generate generate
once import import
once export export_arrays
once ranker ranker
once bundle bundle
echo "synthetic: $state is ready: $release/marquee --config $state/marquee.toml serve"
