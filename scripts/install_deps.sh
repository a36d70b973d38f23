#!/usr/bin/env bash
# Installs the distribution packages that the build needs and that are missing (Debian 12, Ubuntu 24.04). Asks nothing. With
# nothing missing it does and says nothing. CUDA is never installed: the build uses the toolkit it finds.
set -euo pipefail

packages=(
  g++ cmake ninja-build make
  libcli11-dev          # command lines
  nlohmann-json3-dev    # JSON
  libstb-dev            # PNG and JPEG
  libwebp-dev           # WebP
  libsentencepiece-dev  # tokenizer
  libpcre2-dev          # tokenizer: the pre-tokenizer's pattern
  libedit-dev           # line editing in l4-run
  libssl-dev            # TLS in l4-serve
  doctest-dev           # tests
  xz-utils              # make dist
)

# HTTP in l4-serve (Asio and Beast, headers only). Debian 12's own Boost is older than the 1.81 that it has beside it.
case "$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}")" in
  "debian 12") packages+=(libboost1.81-dev) ;;
  *) packages+=(libboost-dev) ;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "l4: not a Debian or Ubuntu system; the build needs what these packages hold: ${packages[*]}" >&2
  exit 0  # they may well be there under other names: CMake names what is not
fi

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

sudo=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    echo "l4: cannot install without root or sudo; as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi

echo "l4: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1; }
apt update -q || true  # an old package list may do
if ! apt install -y -q --no-install-recommends "${missing[@]}"; then
  tail -n 15 "$log" >&2
  echo "l4: apt-get could not install ${missing[*]} (its last lines are above)" >&2
  exit 1
fi
