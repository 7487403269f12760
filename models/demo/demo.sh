#!/usr/bin/env bash
# make demo: from nothing to a slate that changes when a user likes something. All state is in .marquee/demo.
#
#   DEMO_ONCE=1     stop after the tour
#   DEMO_RETRAIN=1  train anew on what the store holds, with the events of earlier tours
#   DEMO_PORT=50051 gRPC; the next port is for operations. DEMO_METRICS_PORT=9090
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

port="${DEMO_PORT:-50051}"
admin_port=$((port + 1))
metrics_port="${DEMO_METRICS_PORT:-9090}"
server=''

stop_server() {
  [[ -n "$server" ]] || return 0
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=''
}
trap stop_server EXIT
trap 'printf "\nstopping\n"; exit 130' INT
trap 'exit 143' TERM

is_taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

check_ports() {
  local each
  for each in "$port" "$admin_port" "$metrics_port"; do
    if is_taken "$each"; then
      fail "demo: port $each on 127.0.0.1 is taken. Is another demo running? Stop what listens there, or choose others:" \
        "    make demo DEMO_PORT=50061 DEMO_METRICS_PORT=9190"
    fi
  done
}

# $1: how far the demo's clock is behind, in milliseconds.
write_config() {
  cat >"$state/marquee.toml" <<TOML
# Written by make demo on every start.
[server]
listen = "127.0.0.1:$port"
admin_listen = "127.0.0.1:$admin_port"
metrics_listen = "127.0.0.1:$metrics_port"
# The ratings end in April 1998; the demo's clock goes on from there.
clock_offset_ms = $1

[store]
url = "sqlite://$state/marquee.db"

[artifacts]
url = "file://$state/bundles"

[events]
quarantine_folder = "$state/quarantine"

[log]
level = "warn"
TOML
}

import_ratings() {
  rm -f "$state"/marquee.db*
  "$marquee" --config "$state/marquee.toml" import --layout recbole-ml-100k "$wheel"
}

train() {
  local code=0
  "$python" -m marquee_models.pipeline --marquee-bin "$marquee" --config "$state/marquee.toml" \
    --work "$state/training" --bundles "$state/bundles" --baselines none || code=$?
  ((code != 3)) || echo "The gate refused the new bundle; what served before goes on serving."
  ((code == 0 || code == 3))
}

# Whether the serving bundle, if any, is one that this build can serve.
can_serve() {
  local version
  version="$("$marquee" --config "$state/marquee.toml" bundle list --json |
    python3 -c 'import json, sys; print(next((b["version"] for b in json.load(sys.stdin) if b["serving"]), ""))')"
  [[ -n "$version" ]] && "$marquee" --config "$state/marquee.toml" bundle verify "$version" >/dev/null
}

# The clock's offset is set once, when the first training knows where the ratings end.
offset() {
  if [[ ! -f "$state/clock_offset_ms" ]]; then
    python3 - "$state" <<'PYTHON'
import json, pathlib, sys, time

state = pathlib.Path(sys.argv[1])
end_ms = json.loads((state / "training" / "summary.json").read_text())["until_ms"]
(state / "clock_offset_ms").write_text(str(end_ms - int(time.time() * 1000)))
PYTHON
  fi
  cat "$state/clock_offset_ms"
}

make_token() {
  (umask 077 && python3 -c 'import secrets; print(secrets.token_urlsafe(32))' >"$state/admin-token")
}

start_server() {
  MARQUEE_ADMIN_TOKEN="$(<"$state/admin-token")" "$marquee" --config "$state/marquee.toml" serve 2>"$state/server.log" &
  server=$!
  until is_taken "$port"; do
    kill -0 "$server" 2>/dev/null || fail "demo: the server did not start:" "$(tail -5 "$state/server.log")"
    sleep 0.1
  done
}

check_ports
prepare
[[ -f "$state/clock_offset_ms" ]] && write_config "$(<"$state/clock_offset_ms")" || write_config 0
once import "$(checksum "$wheel")" "Importing the ratings" import_ratings
[[ -f "$state/marquee.db" ]] || { rm -f "$stamps/import"; fail "demo: the store is gone; start again to import anew."; }
if [[ -n "${DEMO_RETRAIN:-}" ]] || ! can_serve 2>/dev/null; then
  step training "Training: retrieval models, replay through the engine, ranker, evaluation, gate, bundle" train
fi
write_config "$(offset)"
[[ -f "$state/admin-token" ]] || make_token
step start "Starting the server" start_server

MARQUEE_ADMIN_TOKEN="$(<"$state/admin-token")" PYTHONPATH="$root/models" "$python" -m demo.tour \
  --public "127.0.0.1:$port" --admin "127.0.0.1:$admin_port" --metrics "127.0.0.1:$metrics_port" \
  --token-file "$state/admin-token" || fail "demo: the tour failed; the server's log is $state/server.log"

if [[ -n "${DEMO_ONCE:-}" ]]; then
  stop_server
  echo "DEMO_ONCE: the server was stopped."
  exit 0
fi
echo "Serving on 127.0.0.1:$port until Ctrl-C."
wait "$server" || fail "demo: the server ended:" "$(tail -5 "$state/server.log")"
server=''
