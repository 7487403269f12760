# The steps that demo and evaluation share; sourced. Each is done once and leaves a stamp in "$stamps".

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cd "$root"
state=.marquee/demo
stamps="$state/stamps"
wheel="$state/recbole-1.2.1-py3-none-any.whl"
python="$state/venv/bin/python"
marquee="${CARGO_TARGET_DIR:-target}/release/marquee"
mkdir -p "$stamps"

bold='' dim='' plain=''
if [[ -t 1 && -z "${NO_COLOR:-}" ]]; then
  bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
fi

fail() {
  printf '\n%s\n' "$@" >&2
  exit 1
}

# step NAME "what it does" COMMAND...: says what is done and how long it took.
step() {
  local name="$1" doing="$2" began=$SECONDS
  shift 2
  printf '%s==> %s%s\n' "$bold" "$doing" "$plain"
  "$@" || fail "demo: $name failed. What it printed is above; start again with the same command."
  local took=$((SECONDS - began))
  if ((took > 0)); then
    printf '%s    %s: %d min %02d s%s\n' "$dim" "$name" $((took / 60)) $((took % 60)) "$plain"
  fi
}

# once NAME KEY "what it does" COMMAND...: as step, but skipped while the stamp holds the same key.
once() {
  local name="$1" key="$2"
  [[ -f "$stamps/$name" && "$(<"$stamps/$name")" == "$key" ]] && return
  rm -f "$stamps/$name"
  step "$name" "${@:3}"
  printf '%s' "$key" >"$stamps/$name"
}

checksum() {
  python3 -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(p, "rb").read() for p in sys.argv[1:])).hexdigest())' "$@"
}

need() {
  command -v "$1" >/dev/null || fail "demo: $1 was not found. $2"
}

build() {
  need cargo "Install Rust: https://rustup.rs"
  cargo build --release --workspace --bins --locked
}

make_venv() {
  local uv
  uv="$(.ci/tool uv)"
  UV_PROJECT_ENVIRONMENT="$root/$state/venv" "$uv" sync --project models --frozen --no-dev --group demo --quiet
}

download() {
  local pip
  pip="$(dirname "$(.ci/tool uv)")/python"
  "$pip" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes --requirement models/demo/data.txt --dest "$state/download"
  mv "$state/download/$(basename "$wheel")" "$wheel"
  rmdir "$state/download"
}

# Everything up to the data: binary, Python, ratings.
prepare() {
  need python3 "Python 3.11 or later is needed."
  step build "Building the server (several minutes the first time, seconds after that)" build
  once python "$(checksum models/uv.lock models/pyproject.toml)" "Installing the Python packages for training" make_venv
  once download "$(checksum models/demo/data.txt)" "Downloading MovieLens 100K (2 MB, inside the wheel of recbole 1.2.1)" download
  printf '%s    MovieLens 100K by GroupLens Research, University of Minnesota: not for commercial use, not to be\n' "$dim"
  printf '    redistributed. It stays in %s. Cite Harper and Konstan 2015, doi.org/10.1145/2827872.%s\n' "$state" "$plain"
}
