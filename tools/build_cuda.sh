#!/bin/bash
# Builds what runs on a machine with a GPU, where nothing has to be installed but NVIDIA's driver:
# winnow, the tests, and the libraries they need.
#
#   tools/build_cuda.sh [OUT]   into OUT, by default .cuda
#
# Carry OUT there beside the repository and run tools/test_cuda.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  -*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
out=${1:-.cuda}
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
cmake --preset cuda -DCMAKE_CUDA_COMPILER="$nvcc" >&2
cmake --build --preset cuda --target winnow winnow_cuda_test serving_cuda_test golden_cuda_test step_costs >&2
mkdir -p "$out/lib"
for program in winnow tests/unit/cuda/winnow_cuda_test tests/unit/cuda/serving_cuda_test \
  tests/golden/golden_cuda_test bench/step_costs; do
  strip -o "$out/$(basename "$program")" "build/cuda/$program"
  # All but the C library, which every Linux has.
  ldd "build/cuda/$program" | awk '$3 ~ /^\// && $1 !~ /^lib(c|m|dl|rt|pthread)\.so/ {print $3}'
done | sort -u | xargs -I{} cp -L {} "$out/lib/"
du -sh "$out" >&2
