#!/usr/bin/env bash
# usage: scripts/gpu/pack.sh [BUILD_DIR]
# Puts what session.sh needs on a machine with GPUs, but without compilers and libraries of ours, into build-gpu/: the stripped
# program and its tests, and the shared libraries that Ubuntu does not bring, as programs.tar.xz (bin/, lib/), which session.sh
# unpacks. The working tree goes along as it is; both together must stay under 64 MiB.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build}
out=build-gpu
"$build/l4" --version

# Of glibc and gcc nothing: Ubuntu 24.04's are newer, and Python's packages there need those.
system='^(linux-vdso|/lib64/ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libutil|libstdc\+\+|libgcc_s)\.so'
rm -rf "$out/bin" "$out/lib" "$out/out" "$out/programs.tar.xz"
packed=$(mktemp -d)
trap 'rm -rf "$packed"' EXIT
mkdir -p "$out" "$packed/bin" "$packed/lib"
for program in l4 l4-tests; do
  strip -o "$packed/bin/$program" "$build/$program"
  ldd "$build/$program" | awk '$2 == "=>" { print $1, $3 }' | grep -vE "$system" | while read -r soname file; do
    install -m 644 "$(realpath "$file")" "$packed/lib/$soname"
  done
done
for tool in run serve bench convert eval; do ln -sfn l4 "$packed/bin/l4-$tool"; done
plain=$(du -sb --apparent-size "$packed" | cut -f1)
tar -C "$packed" --owner=0 --group=0 -c bin lib | xz -T0 -3 > "$out/programs.tar.xz"
# The tests look for their data and the program where they were built.
{ sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$build/CMakeCache.txt"; realpath "$build"; } > "$out/built_at"
carried=$(du -sb --apparent-size "$out" | cut -f1)
tracked=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb | tail -1 | cut -f1)
printf 'build-gpu %s MiB (programs and libraries %s MiB unpacked), working tree %s MiB, both %s of 64 MiB\n' \
  $((carried >> 20)) $((plain >> 20)) $((tracked >> 20)) $(((carried + tracked) >> 20))
[ $((carried + tracked)) -lt $((64 << 20)) ]
