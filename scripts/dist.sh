#!/usr/bin/env bash
# usage: scripts/dist.sh BUILD_DIR
# Packs an installed tree with the shared libraries it needs into dist/l4-VERSION-....tar.xz, which runs from any directory of a
# host whose glibc is not older than this machine's. Left to the host: glibc, the NVIDIA driver, cuBLAS and NCCL.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version=$("$build/l4" --version)   # l4 0.1.0 (commit 0123456789ab, Release, CUDA 13.0.88 for sm_90a)
number=$(awk '{print $2}' <<<"$version")
if [[ $version == *"CPU only"* ]]; then flavour=cpu; else flavour=cuda13; fi
name="l4-$number-linux-$(uname -m)-$flavour"
tree="$work/$name"

cmake --install "$build" --prefix "$tree" --strip >/dev/null

# Of glibc nothing is bundled: its parts have to match the host's loader.
system='^(linux-vdso|/lib64/ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libutil|libnss_.*)\.so'
needed() { ldd "$1" | awk '$2 == "=>" { print $1, $3 } $2 != "=>" { print $1, $1 }' | grep -vE "$system"; }
mkdir -p "$tree/lib" "$tree/share/l4/licences"
needed "$build/l4" | while read -r soname file; do
  [ -f "$file" ] || { echo "l4: $build/l4 needs $soname, which is not found" >&2; exit 1; }
  install -m 644 "$(realpath "$file")" "$tree/lib/$soname"
  strip --strip-unneeded "$tree/lib/$soname"
  package=$(dpkg-query -S "$(realpath "$file")" 2>/dev/null || dpkg-query -S "$file" 2>/dev/null || true)
  echo "${package%%:*}" >> "$work/packages"
done
# Licences of what is bundled, and of the headers that became part of the program.
for package in $(sort -u "$work/packages") libcli11-dev nlohmann-json3-dev libstb-dev libboost1.81-dev libboost-dev; do
  [ ! -f "/usr/share/doc/$package/copyright" ] ||
    install -m 644 "/usr/share/doc/$package/copyright" "$tree/share/l4/licences/$package.txt"
done

mkdir -p dist
mtime=$(git log -1 --format=%ct 2>/dev/null || date +%s)
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$mtime" -c "$name" | xz -T0 -6 > "dist/$name.tar.xz"

# Once unpacked elsewhere and with an empty environment it must start, and find every library in its own lib/.
mkdir "$work/elsewhere"
tar -C "$work/elsewhere" -xf "dist/$name.tar.xz"
unpacked="$work/elsewhere/$name"
for tool in l4 l4-run l4-serve l4-bench l4-convert l4-eval; do
  env -i "$unpacked/bin/$tool" --version >/dev/null || { echo "l4: $tool does not run from the tarball" >&2; exit 1; }
done
if [ -e "$unpacked/share/l4/demo/config.json" ]; then
  [ -n "$(env -i "$unpacked/bin/l4-run" -p 'Hello.' </dev/null)" ] || { echo "l4: the demo model does not answer" >&2; exit 1; }
fi
outside=$(env -i /usr/bin/ldd "$unpacked/bin/l4" | sed 's/^[[:space:]]*//' | grep -vE "$system" |
  grep -vF " => $(realpath "$unpacked")/bin/../lib/" || true)
[ -z "$outside" ] || { echo "l4: not found inside the tarball: $outside" >&2; exit 1; }
glibc=$(cat "$unpacked"/bin/l4 "$unpacked"/lib/* | grep -aoE 'GLIBC_2\.[0-9]+' | sort -Vu | tail -1)

echo "dist/$name.tar.xz: $(stat -c %s "dist/$name.tar.xz" | numfmt --to=iec-i)B; needs glibc ${glibc#GLIBC_} or newer$(
  [ $flavour = cpu ] || echo ', for GPUs the NVIDIA driver, cuBLAS 13 and NCCL 2')"
