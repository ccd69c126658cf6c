#!/bin/bash
# Runs the tests on a machine with a GPU, from the root of the repository, with what
# tools/build_cuda.sh has built. Prints a line for each part; logs go to a folder.
#
#   tools/test_cuda.sh [--sanitize] [BUILT] [LOGS]   by default .cuda and /tmp/cuda_test
#
# --sanitize adds compute-sanitizer's memcheck and racecheck on small shapes, memcheck of bf16
# precision, and racecheck of its products.
set -uo pipefail
cd "$(dirname "$0")/.."
sanitize=0
[[ "${1:-}" == --sanitize ]] && { sanitize=1; shift; }
built=${1:-.cuda}
logs=${2:-/tmp/cuda_test}
shards=8
mkdir -p "$logs"
export LD_LIBRARY_PATH="$built/lib"
failed=0

# part NAME SECONDS COMMAND…: runs it, says how it went.
part() {
  local name=$1 limit=$2 begin=$SECONDS rc
  shift 2
  timeout "$limit" "$@" >"$logs/$name.log" 2>&1
  rc=$?
  ((rc)) && failed=1
  printf '%-24s rc %-4d %4d s  %s\n' "$name" "$rc" $((SECONDS - begin)) \
    "$(grep -E '^\[  (PASSED|FAILED)  \]|ERROR SUMMARY|RACECHECK SUMMARY' "$logs/$name.log" | tr '\n' ' ' | cut -c1-300)"
}

# The same with the tests shared out to several processes.
sharded() {
  local name=$1 limit=$2 program=$3 shard rc pids=()
  for ((shard = 0; shard < shards; ++shard)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard \
      timeout "$limit" "$program" --gtest_brief=1 >"$logs/$name.$shard.log" 2>&1 &
    pids+=($!)
  done
  local begin=$SECONDS bad=0
  for ((shard = 0; shard < shards; ++shard)); do
    wait "${pids[shard]}"
    rc=$?
    ((rc)) && { bad=$((bad + 1)); echo "  $name shard $shard: rc $rc"; }
  done
  ((bad)) && failed=1
  printf '%-24s %d of %d shards failed, %d s, %s passed\n' "$name" "$bad" "$shards" \
    $((SECONDS - begin)) "$(cat "$logs/$name".*.log | awk '/PASSED/ {n += $4} END {print n + 0}')"
  grep -h '^\[  FAILED  \]' "$logs/$name".*.log | sort -u | head -40
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
sharded unit 240 "$built/winnow_cuda_test"
sharded golden 200 "$built/golden_cuda_test"
sharded serving 200 "$built/serving_cuda_test"
part verify 60 "$built/winnow" verify --backend cuda tests/golden/*/
if ((sanitize)); then
  small='CudaBackend.Gives*:Moe.Breaks*:Moe.TakesNo*:Attention.HoldsForRows*:DrawTokens.OfARow*:DrawTokens.AreTheLikeliest*:SelectTokens.BreaksTies*:WriteLatent.Q*:WriteIndexKeys.S*:RmsNorm.Works*'
  tensor='Bf16Linear.Lets*:Bf16Moe.*:Bf16SelectTokens.SelectsWhat*:Bf16Attention.*'
  for tool in memcheck racecheck; do
    part "$tool" 150 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$built/winnow_cuda_test" --gtest_brief=1 --gtest_filter="$small"
  done
  part memcheck-bf16 150 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$built/winnow_cuda_test" --gtest_brief=1 --gtest_filter="$tensor"
  # Selection takes it more than two minutes, and of attention it says more than it knows
  # (docs/cuda.md, What is seen).
  part racecheck-bf16 150 compute-sanitizer --tool racecheck --error-exitcode 9 \
    "$built/winnow_cuda_test" --gtest_brief=1 --gtest_filter='Bf16Linear.Lets*:Bf16Moe.*'
fi
exit $failed
