#!/bin/sh
# Formatting of every C++ file in the repository: says what differs, or with --fix formats it.
set -eu
cd "$(dirname "$0")/.."
format=${CLANG_FORMAT:-clang-format}
command -v "$format" >/dev/null || { echo "check_format: $format is not installed" >&2; exit 1; }
case "${1:-}" in
  --fix) set -- -i ;;
  "") set -- --dry-run --Werror ;;
  *) echo "usage: tools/check_format.sh [--fix]" >&2; exit 2 ;;
esac
git ls-files -z -- '*.cc' '*.h' '*.cu' '*.cuh' | xargs -0 -r "$format" "$@"
