#!/bin/sh
# Everything docs/eval.md and the model card say about winnow-nano: numbers to FOLDER/*.json, plots to FOLDER/*.svg,
# tables to standard output. Texts and needles are those of examples/; none was in the training text.
#
#   tools/evaluate_nano.sh [MODEL [FOLDER]]      default: models/winnow-nano docs/eval; about half an hour on two cores
set -eu
cd "$(dirname "$0")/.."
model=${1:-models/winnow-nano}
out=${2:-docs/eval}
winnow=build/cpu/winnow
texts="--text examples/zenda.txt --text examples/saltmarsh.txt"
mkdir -p "$out"
measure() {  # NAME KIND ARGUMENTS…
  name=$1 kind=$2
  shift 2
  printf '\n== %s: winnow eval %s %s %s --precision f32\n\n' "$name" "$kind" "$model" "$*"
  "$winnow" eval "$kind" "$model" "$@" --precision f32 --json "$out/$name.json" --svg "$out/$name.svg"
}
measure perplexity perplexity $texts --length 16K
measure recall recall $texts --length 8K
measure needle needle $texts --needles examples/needles_learned.json --lengths 2K,4K,8K,16K --trials 2
measure needle_long needle $texts --needles examples/needles_learned.json --lengths 32K,63K --attention sparse
measure needle_new needle $texts --lengths 2K,8K,32K --attention sparse
measure needle_near needle $texts --needles examples/needles_near.json --lengths 2K,8K --trials 2 --attention sparse
measure policies policies --text examples/zenda.txt --length 4K --needles examples/needles_learned.json
