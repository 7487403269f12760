#!/usr/bin/env bash
# Starts a release server on a state (a folder with a marquee.toml) and loads it. The verbs of the Makefile:
#
#   drive.sh load       search the highest rate that holds the SLO; report.json, report.html and curve.svg
#   drive.sh overload   three times that rate, server and generator on one core each
#   drive.sh soak       half of that rate for MINUTES, with events being written
#
#   STATE=FOLDER        default .marquee/synthetic/100000 (make synthetic ITEMS=100000)
#   PROFILE=FILE        default loadtest/profiles/{ranked,overload,soak}.toml
#   SLO=p99=25ms  ERROR_RATE=0.1%  RATE=N (no search)  FROM=100 (first rate of the search)
#   MINUTES=30 WARM_UP=12m   of a soak; memory is measured after the warm-up
#   SERVER_CORES=0 GENERATOR_CORES=1    by taskset; for load and soak only when given
#   OUT=FOLDER          default .marquee/load
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

verb="${1:-}"
case "$verb" in
  load) profile=ranked ;;
  overload) profile=overload SERVER_CORES="${SERVER_CORES-0}" GENERATOR_CORES="${GENERATOR_CORES-1}" ;;
  soak) profile=soak ;;
  *) echo "usage: loadtest/drive.sh load|overload|soak" >&2; exit 64 ;;
esac
state="${STATE:-.marquee/synthetic/100000}"
profile="${PROFILE:-loadtest/profiles/$profile.toml}"
out="${OUT:-.marquee/load}"
binaries="${MARQUEE_BIN_DIR:-${CARGO_TARGET_DIR:-target}/release}"
server=''

fail() {
  printf '%s\n' "$@" >&2
  exit 69
}

[[ -f "$state/marquee.toml" ]] || fail "STATE: there is no $state/marquee.toml." \
  "Make one with: make synthetic ITEMS=100000, or give another: make $verb STATE=.marquee/demo PROFILE=loadtest/profiles/demo.toml"
[[ -n "${MARQUEE_BIN_DIR:-}" ]] || cargo build --release --workspace --bins --examples
mkdir -p "$out"
log="$out/server.log"

stop_server() {
  [[ -n "$server" ]] || return 0
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=''
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# on CORES COMMAND...: there, or anywhere when it is empty.
on() {
  local cores="$1"
  shift
  if [[ -n "$cores" ]]; then exec taskset --cpu-list "$cores" "$@"; else exec "$@"; fi
}

# Ports that are free, whatever the state's config says; addresses are read from the log.
export MARQUEE_SERVER__LISTEN=127.0.0.1:0 MARQUEE_SERVER__ADMIN_LISTEN=127.0.0.1:0
export MARQUEE_SERVER__METRICS_LISTEN=127.0.0.1:0 MARQUEE_LOG__JSON=true MARQUEE_LOG__LEVEL=info
# What is bounded is full before memory is measured, as it is after a day: 30 minutes do not fill a cache of 50,000 profiles.
[[ "$verb" != soak ]] || export MARQUEE_LIMITS__PROFILE_CACHE_MAX_USERS="${MARQUEE_LIMITS__PROFILE_CACHE_MAX_USERS:-5000}"
(on "${SERVER_CORES:-}" "$binaries/marquee" --config "$state/marquee.toml" serve) >/dev/null 2>"$log" &
server=$!
began=$SECONDS
until grep -q '"listening"' "$log" 2>/dev/null; do
  kill -0 "$server" 2>/dev/null || fail "the server did not start:" "$(tail -5 "$log")"
  ((SECONDS - began < 300)) || fail "the server did not listen within 300 s; its log is $log"
  sleep 0.2
done
address_of() {
  grep '"listening"' "$log" | tail -1 | grep -o "\"$1\":\"[^\"]*\"" | cut -d'"' -f4
}

slo="${SLO:-p99=25ms}"
words=("$binaries/marquee-loadtest" --address "http://$(address_of grpc)" "$verb")
case "$verb" in load) words[3]=search ;; esac
words+=(--profile "$profile" --metrics "$(address_of metrics)" --server-pid "$server")
words+=(--slo "$slo" --error-rate "${ERROR_RATE:-0.1%}" --from-rate "${FROM:-100}")
words+=(--label "server=$("$binaries/marquee" --version)")
[[ -z "${SERVER_CORES:-}" ]] || words+=(--label "server's cores=$SERVER_CORES")
[[ -z "${RATE:-}" || "$verb" == load ]] || words+=(--rate "$RATE")
case "$verb" in
  load) words+=(--json "$out/report.json" --out "$out/report.html" --svg "$out/curve.svg") ;;
  *) words+=(--json "$out/$verb.json" --out "$out/$verb.html") ;;
esac
[[ "$verb" != soak ]] || words+=(--duration "${MINUTES:-30}m" --warm-up "${WARM_UP:-12m}")
code=0
(on "${GENERATOR_CORES:-}" "${words[@]}") || code=$?
stop_server
exit "$code"
