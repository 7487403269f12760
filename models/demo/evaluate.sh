#!/usr/bin/env bash
# make evaluate: the evaluation table with every baseline beside ours, on MovieLens 100K, and on ml-latest-small and
# MovieTweetings 100K where MARQUEE_DATA holds them. Each in a store of its own; nothing is published. Steps already done
# are not done again. Sets with fewer than 20 ratings a film take the settings for sparse data.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# evaluate NAME "pipeline options" IMPORT-ARGUMENTS...
evaluate() {
  local name="$1" options="$2" folder=".marquee/evaluate/$1"
  shift 2
  mkdir -p "$folder"
  cat >"$folder/marquee.toml" <<TOML
[store]
url = "sqlite://$folder/marquee.db"
[artifacts]
url = "file://$folder/bundles"
[events]
quarantine_folder = "$folder/quarantine"
[log]
level = "warn"
TOML
  "$marquee" --config "$folder/marquee.toml" import "$@"
  # shellcheck disable=SC2086 # options are words
  "$python" -m marquee_models.pipeline --marquee-bin "$marquee" --config "$folder/marquee.toml" \
    --work "$folder/training" --bundles "$folder/bundles" --no-publish $options
}

prepare
step ml-100k "MovieLens 100K" evaluate ml-100k "" --layout recbole-ml-100k "$wheel"
sparse="--settings models/settings/sparse.json"
small="${MARQUEE_DATA:-}/ml-latest-small"
if [[ -d "$small" ]]; then
  step ml-latest-small "ml-latest-small" evaluate ml-latest-small "$sparse" --layout movielens "$small"
  step rolling "ml-latest-small, five rolling splits" evaluate ml-latest-small "$sparse --rolling 5" --layout movielens "$small"
else
  echo "ml-latest-small is left out: set MARQUEE_DATA to a folder that holds it"
fi
tweets="${MARQUEE_DATA:-}/movietweetings-100k"
if [[ -d "$tweets" ]]; then
  step movietweetings "MovieTweetings 100K" evaluate movietweetings-100k "$sparse" \
    --layout movielens --rating-factor 0.5 "$tweets"
else
  echo "movietweetings-100k is left out: set MARQUEE_DATA to a folder that holds it"
fi
