#!/usr/bin/env bash
# usage: scripts/lint.sh format | format-check | tidy BUILD_DIR
# Both tools are pinned to version 14 (another one formats and warns differently): apt-get install clang-format-14 clang-tidy-14
set -euo pipefail
cd "$(dirname "$0")/.."

# A tool of version 14 by either name.
tool() {
  for name in "$1-14" "$1"; do
    if command -v "$name" >/dev/null && "$name" --version | grep -q 'version 14\.'; then echo "$name"; return; fi
  done
  echo "l4: $1 14 is not here: apt-get install $1-14" >&2
  return 1
}

sources() { find core kernels tools tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | sort; }

case "${1:-}" in
  format)       clang_format=$(tool clang-format); sources | xargs "$clang_format" -i ;;
  format-check) clang_format=$(tool clang-format); sources | xargs "$clang_format" --dry-run -Werror ;;
  tidy)
    clang_tidy=$(tool clang-tidy)
    # Files that this build compiles, except tests; nvcc's are not for clang. doctest's macros would drown the rest.
    sources | grep '\.cpp$' | grep -v '^tests/' | while read -r file; do
      if grep -qF "\"$PWD/$file\"" "$2/compile_commands.json"; then echo "$file"; fi
    done | xargs -P "$(nproc)" -n 1 "$clang_tidy" -p "$2" --quiet 2> >(grep -vE 'warnings? generated' >&2)
    ;;
  *) sed -n 2,3p "$0"; exit 2 ;;
esac
