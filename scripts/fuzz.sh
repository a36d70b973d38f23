#!/usr/bin/env bash
# usage: scripts/fuzz.sh [NAME...]      tests/fuzz/fuzz_NAME.cpp; without a name, all of them
# Builds the fuzzers in build-fuzz and runs each for FUZZ_SECONDS (30), from its corpus in tests/fuzz/corpus and what
# earlier runs found (build-fuzz/corpus). What broke one lies in build-fuzz/NAME-crash-...; run the fuzzer on it again.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-30}
jobs=${JOBS:-$(nproc)}
compiler=${CLANGXX:-clang++}

probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$probe/probe.cpp"
if ! "$compiler" -fsanitize=fuzzer,address,undefined "$probe/probe.cpp" -o "$probe/probe" 2>/dev/null; then
  echo "l4: fuzzers skipped: no clang++ with libFuzzer here (Debian, Ubuntu: apt-get install clang libclang-rt-dev)"
  exit 0
fi

cmake -S . -B build-fuzz -G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Fuzz -DL4_CUDA=OFF \
  -DL4_TESTS=OFF -DL4_FUZZ=ON >build-fuzz.log 2>&1 || { cat build-fuzz.log; exit 1; }
names=("$@")
[ ${#names[@]} -gt 0 ] || for source in tests/fuzz/fuzz_*.cpp; do
  name=${source##*/fuzz_}
  names+=("${name%.cpp}")
done
cmake --build build-fuzz -j "$jobs" --target "${names[@]/#/fuzz_}"

failed=()
for name in "${names[@]}"; do
  mkdir -p "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name"
  log=build-fuzz/$name.log
  if "build-fuzz/fuzz_$name" "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name" -max_total_time="$seconds" -timeout=10 \
      -rss_limit_mb=2048 -artifact_prefix="build-fuzz/$name-" >"$log" 2>&1; then
    echo "fuzz $name: passed, $(grep -E '^Done [0-9]+ runs' "$log" || tail -n 1 "$log")"
  else
    failed+=("$name")
    grep -E 'ERROR|SUMMARY|runtime error|Test unit written' "$log" || tail -n 20 "$log"
    echo "fuzz $name: FAILED ($log)"
  fi
done
echo "${#names[@]} fuzzers, ${#failed[@]} failed${failed:+: ${failed[*]}}"
[ ${#failed[@]} -eq 0 ]
