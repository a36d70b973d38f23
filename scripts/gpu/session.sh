#!/usr/bin/env bash
# usage: scripts/gpu/session.sh [SECTION ...]          on the machine with GPUs, in the repository's root; build-gpu/ beside it
#        TRIAL=1 scripts/gpu/session.sh [SECTION ...]  the same sections on the CPU with tiny models, to try the script
#
# One session as one command. Every section runs under its own time limit, one that fails stops no other, and what does not fit
# into LIMIT seconds any more is left out and said. Files come back in $OUT: session.log (everything printed), results.jsonl (a
# line a section, and the tools' own lines), bench.jsonl. The summary is printed last. Exit status 0 only if all passed.
#
# section      what                                                            GPUs   estimate (s)  limit (s)
# ceilings     l4-bench ceilings: bandwidth, matrix rate, launches, peers       1-2             15         60
# gpu-test     CUDA operations against the CPU, golden models, libraries        1-2             45        150
# demo         200 prompts token for token, eager, tensor parallel, passkeys    1-2             50        150
# checkpoint   4 layers of Scout, 23.5 GB; in the background of the two above     1             25         90
# real-width   transformers in float32 and bfloat16 against l4, on all GPUs     1-2             85        200
# loader       storage's rate, cold and warm loads                              1-2             80        200
# bench        the tables of NOTES.md: 16 layers on one H100, Scout on two H200 1-2             90        200
# formats      FP8 and INT4 at full size, the rows that these GPUs have   1-2            100        240
# load         Scout in INT4 from files in memory to the first token        1             45        120
# sanitizer    memcheck, racecheck of each family of stage tests, 6 at a time     1            260        400
#
# All on one GPU: about 8 minutes; on two: ceilings gpu-test demo checkpoint real-width loader bench, about 6. The machine's
# start takes a minute or more beside that. See README.md for what to send in which call.
set -uo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

ALL=(ceilings gpu-test demo checkpoint real-width loader bench formats load sanitizer)
declare -A ESTIMATE=([ceilings]=15 [gpu-test]=45 [demo]=50 [checkpoint]=25 [real-width]=85 [loader]=80 [bench]=90 [formats]=100
                     [load]=45 [sanitizer]=260)
declare -A AT_MOST=([ceilings]=60 [gpu-test]=150 [demo]=150 [checkpoint]=90 [real-width]=200 [loader]=200 [bench]=200
                    [formats]=240 [load]=120 [sanitizer]=400)
LIMIT=${LIMIT:-570}  # of the whole script
SECONDS=0

export TRIAL=${TRIAL:-} OUT=${OUT:-$root/build-gpu/out}
# The checkpoint lies on a disk, not in memory.
for place in /tmp /var/tmp "$root/build-gpu"; do
  [ "$(stat -f -c %T "$place" 2>/dev/null)" != tmpfs ] && break
done
export WORK=${WORK:-$place/l4-session} PYTHON=${PYTHON:-python3}
PROGRAMS=$root/build-gpu/programs.tar.xz UNPACKED=$WORK/unpacked  # by pack.sh; not in build-gpu, which would be carried with it
export BIN=${BIN:-$UNPACKED/bin}
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True  # transformers' float32 run fits 80 GB only without gaps
export PYTHONUNBUFFERED=1 L4_DEMO_DIR=$root/core/demo NCCL_NVLS_ENABLE=0
export CHECKPOINT=$WORK/checkpoint

# By Python: a machine may have no xz.
unpack() {
  rm -rf "$UNPACKED"
  [ -f "$PROGRAMS" ] || return 0
  "$PYTHON" - "$PROGRAMS" "$UNPACKED" <<'END' || { rm -rf "$UNPACKED"; exit 1; }
import sys, tarfile
try:
    with tarfile.open(sys.argv[1]) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(sys.argv[2])
except (OSError, EOFError, tarfile.TarError) as error:
    sys.exit(f"session.sh: cannot unpack {sys.argv[1]}: {' '.join(str(error).split())}")
END
}

prepare() {
  mkdir -p "$OUT" "$WORK/logs"
  unpack
  [ -x "$BIN/l4" ] || { echo "session.sh: no program $BIN/l4; scripts/gpu/pack.sh makes $PROGRAMS" >&2; exit 1; }
  [ -n "$TRIAL" ] && rm -f "$OUT"/*
  GPUS=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
  [ -n "$TRIAL" ] && GPUS=0
  export GPUS DEVICE=cuda
  [ -n "$TRIAL" ] && DEVICE=cpu
  # cuBLASLt and NCCL: those that came with PyTorch, else the toolkit's. For our programs alone: PyTorch finds its own.
  local libraries
  libraries=$("$PYTHON" -c '
import glob, site
print(":".join(lib for place in site.getsitepackages() for lib in glob.glob(place + "/nvidia/*/lib")))' 2>/dev/null)
  libraries=$UNPACKED/lib${libraries:+:$libraries}:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  mkdir -p "$WORK/bin"
  local name
  for name in l4-run l4-eval l4-bench l4-tests; do
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$BIN/$name" > "$WORK/bin/$name"
    chmod +x "$WORK/bin/$name"
  done
  export L4_LIBRARIES=$libraries
  # Where the tests were built: their data and the program lie there.
  if [ -f build-gpu/built_at ]; then
    { read -r source; read -r built; } < build-gpu/built_at
    if [ ! -e "$source" ]; then mkdir -p "$(dirname "$source")" && ln -s "$root" "$source"; fi
    if [ ! -e "$built" ]; then mkdir -p "$(dirname "$built")" && ln -s "$BIN" "$built"; fi
  fi
  {
    date -u
    nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>/dev/null
    nvidia-smi topo -m 2>/dev/null | head -8
    uname -r
    free -g | sed -n 2p
    df -h "$WORK" | tail -1
    l4 l4-run --version
    l4 l4-run --list-devices
  } 2>&1 | tee -a "$OUT/session.log"
}

# ---- sections: each runs in a shell of its own -----------------------------------------------------------------------

l4() { "$WORK/bin/$@"; }
tool() { "$PYTHON" "scripts/gpu/$@"; }  # its JSON line also goes to results.jsonl
two() { [ "$GPUS" -ge 2 ]; }
missing() { echo "not run: $*"; exit 77; }

section_ceilings() {
  l4 l4-bench ceilings --help >/dev/null 2>&1 || missing "this l4-bench has no ceilings"
  l4 l4-bench ceilings -o jsonl | tee -a "$OUT/bench.jsonl"
}

section_gpu-test() {
  if [ -n "$TRIAL" ]; then l4 l4-tests -tc='libraries:*,l4-eval:*'; return; fi
  l4 l4-tests -tc='cuda *,libraries:*' > "$WORK/gpu-test"
  local status=$?
  cat "$WORK/gpu-test"
  # On this machine a skipped test is a missed one, but for those that need more GPUs.
  if grep '^SKIPPED' "$WORK/gpu-test" | grep -v 'Hopper GPUs$'; then return 1; fi
  return $status
}

section_demo() {
  if [ -n "$TRIAL" ]; then tool demo.py --self-check "$WORK/bin/l4-eval" | tee -a "$OUT/results.jsonl"; return; fi
  tool demo.py --l4-eval "$WORK/bin/l4-eval" --device "$DEVICE" $(two && echo --tensor-parallel 2) |
    tee -a "$OUT/results.jsonl"
}

section_checkpoint() {
  local words=(--vision-layers 34)
  [ -n "$TRIAL" ] && words=(--preset small --device cpu --threads 2 --vision-layers 2 --vision-hidden 176)
  tool make_checkpoint.py "$CHECKPOINT" "${words[@]}" | tee -a "$OUT/results.jsonl"
}

section_real-width() {
  [ -f "$CHECKPOINT/model.safetensors.index.json" ] || missing "no checkpoint"
  local words=(--l4-eval "$WORK/bin/l4-eval" --device "$DEVICE")
  [ -n "$TRIAL" ] && words+=(--hf-device cpu --tokens 96 --seeds 2 --long 300 --decode 8)
  two && words+=(--tensor-parallel 2)
  tool real_width.py "$CHECKPOINT" "${words[@]}" | tee -a "$OUT/results.jsonl"
}

section_loader() {
  [ -f "$CHECKPOINT/model.safetensors.index.json" ] || missing "no checkpoint"
  tool loader.py "$CHECKPOINT" --l4-run "$WORK/bin/l4-run" --device "$DEVICE" $(two && echo --tensor-parallel 2) \
    ${TRIAL:+--share 0} | tee -a "$OUT/results.jsonl"
}

bench() { timeout -k 5 90 "$WORK/bin/l4-bench" "$@" -o jsonl -oe md >> "$OUT/bench.jsonl" || status=$?; }  # sets status

section_bench() {
  local status=0 scout=(-m scout --synthetic) layers=(--layers 16)
  if [ -n "$TRIAL" ]; then
    bench decode -m tiny --synthetic --device cpu --batch 1,2 --context 32 -n 4
    return $status
  fi
  two && layers=(-tp 2)
  bench decode "${scout[@]}" "${layers[@]}" --batch 1 --context 1K,8K -n 100
  bench decode "${scout[@]}" "${layers[@]}" --batch 8,32,64 --context 1K -n 50
  bench prefill "${scout[@]}" "${layers[@]}" -p 8K
  if l4 l4-bench op --help >/dev/null 2>&1; then bench op -m scout --synthetic; else echo "this l4-bench has no op"; fi
  return $status
}

# Everything at full size with an FP8 cache; experts alone: 16 and 32 rows each.
section_formats() {
  local status=0 fp8=(--synthetic --format fp8 --kv-cache-dtype fp8) mix=(--synthetic --format int4-mix --kv-cache-dtype fp8)
  local h200=
  nvidia-smi -L 2>/dev/null | grep -q H200 && h200=yes
  if [ -n "$TRIAL" ]; then
    bench decode -m tiny "${mix[@]}" --device cpu --batch 1,2 --context 32 -n 4
    bench op -m tiny "${mix[@]}" --device cpu --routing uniform --experts-alone --batch 32 --context 32 -r 2
    return $status
  fi
  if two; then
    bench decode -m scout "${fp8[@]}" -tp 2 --batch 1 --context 1K -n 100
    [ -n "$h200" ] && bench decode -m maverick "${mix[@]}" -tp 2 --batch 1 --context 1K -n 100
    return $status
  fi
  bench decode -m scout "${mix[@]}" --batch 1,8,32,64 --context 1K -n 50
  if [ -n "$h200" ]; then
    bench decode -m scout "${fp8[@]}" --batch 1,8,32,64 --context 1K -n 50
    bench prefill -m scout "${fp8[@]}" -p 8K
  else
    bench prefill -m scout "${mix[@]}" -p 8K
    bench op -m scout "${mix[@]}" --routing uniform --experts-alone --batch 256,512 --context 16
  fi
  return $status
}

section_load() {
  local status=0 dir=/dev/shm/l4-session need=66 words=(--format int4-mix)
  [ -n "$TRIAL" ] && need=1 words+=(-m tiny)
  rm -rf "$dir" && mkdir -p "$dir"
  trap "rm -rf $dir/model; umount $dir 2>/dev/null; rmdir $dir" EXIT
  if [ "$(df --output=avail -BG "$dir" | tail -1 | tr -dc 0-9)" -lt "$need" ]; then
    mount -t tmpfs -o size=${need}g tmpfs "$dir" || missing "/dev/shm has less than $need GB"
  fi
  l4 l4-bench write-checkpoint "$dir/model" "${words[@]}" || return
  bench load -m "$dir/model" --device "$DEVICE"
  return $status
}

section_sanitizer() {
  local sanitizer
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  [ -n "$sanitizer" ] || missing "no compute-sanitizer"
  # One process for each tool and family, so that one that hangs costs itself alone. Errors of calls are the tests' own to see:
  # some are made on purpose, and NCCL makes its own.
  l4 l4-tests --list-test-cases | grep -oE '^cuda [^:]+:' | grep -v '^cuda l4:' | sort -u > "$WORK/families"
  [ -s "$WORK/families" ] || missing "no tests named \"cuda ...\""
  export sanitizer
  check() {
    local log="$WORK/sanitizer-$1-${2//[^a-z]/_}"
    LD_LIBRARY_PATH=$L4_LIBRARIES timeout -k 5 200 "$sanitizer" --tool "$1" --target-processes all --print-limit 20 \
      --report-api-errors no \
      "$BIN/l4-tests" -tc="$2*" > "$log" 2>&1
    local status=$? errors
    errors=$(awk '/(ERROR|RACECHECK) SUMMARY: [0-9]+/ { n += $4; seen = 1 } END { if (seen) print n }' "$log")
    printf '%-10s %-28s exit %-4s errors %s\n' "$1" "$2" "$status" "${errors:-none reported: it did not finish}"
    if grep '^SKIPPED' "$log" | grep -v 'Hopper GPUs$' && [ -z "$TRIAL" ]; then return 1; fi  # nothing was looked at
    [ "$status" = 0 ] && [ "$errors" = 0 ] && return 0
    grep -E '=========|FAILED' "$log" | head -60
    return 1
  }
  export -f check
  while read -r family; do printf 'memcheck\0%s\0racecheck\0%s\0' "$family" "$family"; done < "$WORK/families" |
    xargs -0 -n 2 -P 6 bash -c 'check "$0" "$1"'
}

if [ "${1:-}" = --section ]; then
  "section_$2"
  exit
fi

# ---- the session -----------------------------------------------------------------------------------------------------

sections=("$@")
[ $# = 0 ] && sections=("${ALL[@]}")
for name in "${sections[@]}"; do
  [ -n "${ESTIMATE[$name]:-}" ] || { echo "session.sh: no section $name; there are ${ALL[*]}" >&2; exit 2; }
done
prepare

record() {  # name, exit status, seconds
  printf '{"section": "%s", "exit": %s, "seconds": %s, "estimate": %s}\n' "$1" "$2" "$3" "${ESTIMATE[$1]}" >> "$OUT/results.jsonl"
}

run_section() {
  local name=$1 begin=$SECONDS left=$((LIMIT - SECONDS)) limit=${AT_MOST[$1]}
  if [ $((left - 5)) -lt $((ESTIMATE[$name] / 2)) ]; then
    echo "== $name: left out, $left s remain"
    record "$name" 75 0
    return
  fi
  [ "$limit" -gt $((left - 5)) ] && limit=$((left - 5))
  timeout -k 5 "$limit" bash "$0" --section "$name" > "$WORK/logs/$name" 2>&1
  local status=$?
  { echo "== $name: exit $status after $((SECONDS - begin)) s"; head -c 4000000 "$WORK/logs/$name"; } >> "$OUT/session.log"
  echo "== $name: exit $status after $((SECONDS - begin)) s"
  [ "$status" = 0 ] || tail -c 1500 "$WORK/logs/$name"
  record "$name" "$status" $((SECONDS - begin))
}

background=
for name in "${sections[@]}"; do
  # The checkpoint is made while tests that time nothing run.
  if [ "$name" = checkpoint ] && [ -n "$background" ]; then
    wait "$background"
    background=
    continue
  fi
  if [[ $name =~ ^(gpu-test|demo)$ && -z $background && " ${sections[*]} " == *" checkpoint "* ]] &&
     [ ! -e "$CHECKPOINT/config.json" ]; then
    run_section checkpoint &
    background=$!
  fi
  run_section "$name"
done
[ -n "$background" ] && wait "$background"
for name in ceilings bench formats load; do  # tables for people
  [[ " ${sections[*]} " == *" $name "* ]] && head -c 5000 "$WORK/logs/$name"
done
"$PYTHON" scripts/gpu/summary.py "$OUT/results.jsonl"
