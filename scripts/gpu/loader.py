#!/usr/bin/env python3
"""How fast does l4 load a checkpoint, as a share of what the storage gives?

    loader.py CHECKPOINT --l4-run build/l4-run [--device cuda] [--tensor-parallel 2] [--out loader.json]
    loader.py --self-check build/l4-run            on the demo model and the CPU, page cache and all

1. The shards are written back to the storage and dropped from the page cache (posix_fadvise DONTNEED); how much of them stays
   there is asked of mincore() and stated: above 5 % the numbers are not cold and the criterion is missed.
2. The storage's own rate: --probe bytes of the shards read with O_DIRECT, once by one thread from front to back (as dd does),
   once by 8 threads, each a part of its own. The better of the two is the yardstick.
3. l4-run loads the cold checkpoint and answers one token (--cold times), then warm (all of it in the page cache, with the rate at
   which 8 threads copy it out of there as its yardstick). l4-run's own load_ms is taken: mapping, reading, packing, copying.

The criterion: the better cold load reaches --share (0.6) of the storage's rate. One JSON line; exit status 1 when missed, 2 when
something did not run. Where storage is faster cold than the cache is copied, both numbers say so.
"""

import argparse
import ctypes
import json
import mmap
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 16 << 20
THREADS = 8


def shards_of(folder):
    return sorted(Path(folder).glob("*.safetensors"))


def drop(files):
    """Out of the page cache; what is not on the storage yet has to be written first."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def resident_share(files):
    """Of the files' pages, how many are in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    pages = resident = 0
    for file in files:
        size = file.stat().st_size
        fd = os.open(file, os.O_RDONLY)
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        os.close(fd)
        vector = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        if at == ctypes.c_void_p(-1).value or libc.mincore(at, size, vector) != 0:
            raise OSError(ctypes.get_errno(), f"mincore of {file}")
        libc.munmap(at, size)
        pages += len(vector)
        resident += sum(b & 1 for b in vector.raw)
    return resident / pages


def read_part(file, begin, end, flags):
    """Reads [begin, end) of a file in blocks; returns the bytes read. O_DIRECT wants aligned memory: a map's is."""
    fd = os.open(file, os.O_RDONLY | flags)
    buffer, done = mmap.mmap(-1, BLOCK), 0
    view = memoryview(buffer)
    try:
        at = begin
        while at < end:
            n = os.preadv(fd, [view[: min(BLOCK, -(-(end - at) // 4096) * 4096)]], at)
            if n <= 0:
                break
            at, done = at + n, done + n
    finally:
        os.close(fd)
        view.release()
        buffer.close()
    return done


def rate(files, threads, flags, limit):
    """Bytes a second of reading at most `limit` bytes of the files, each cut into a part for every thread."""
    parts, left = [], limit
    for file in files:
        size = min(file.stat().st_size, left)
        left -= size
        step = max(BLOCK, -(-size // threads // BLOCK) * BLOCK) if threads > 1 else size
        parts += [(file, at, min(at + step, size), flags) for at in range(0, size, max(step, 1))]
    begin = time.time()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(lambda p: read_part(*p), parts))
    return done / (time.time() - begin)


def storage_rates(files, probe):
    flags = os.O_DIRECT
    try:
        read_part(files[0], 0, 4096, flags)
    except OSError:  # a file system without it (tmpfs, overlays): dropped pages do
        flags = 0
    rates = {}
    for threads in (1, THREADS):
        if not flags:
            drop(files)
        rates[threads] = rate(files, threads, flags, probe)
    return rates, bool(flags)


def load_once(args, checkpoint):
    command = [args.l4_run, "-m", checkpoint, "--device", args.device, "-tp", args.tensor_parallel, "-c", 1024, "--ids", "1,2,3",
               "-n", 1, "--temp", 0, "--json", *args.l4_arguments]
    begin = time.time()
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        print(f"loader.py: {args.l4_run}: {done.stderr.strip()[-2000:]}", file=sys.stderr)
        sys.exit(2)
    timings = json.loads(done.stdout)["timings"]
    return timings["load_ms"] / 1000, time.time() - begin


def measure(args, checkpoint):
    files = shards_of(checkpoint)
    if not files:
        sys.exit(f"loader.py: {checkpoint}: no *.safetensors there")
    size = sum(f.stat().st_size for f in files)
    begin = time.time()
    drop(files)
    sync_s = time.time() - begin
    resident = resident_share(files)
    rates, direct = storage_rates(files, args.probe)
    cold = []
    for _ in range(args.cold):
        drop(files)
        resident = max(resident, resident_share(files))
        cold.append(load_once(args, checkpoint)[0])
    rate(files, THREADS, 0, size)  # into the page cache
    warm_resident = resident_share(files)
    warm, warm_wall = load_once(args, checkpoint)
    cache_rate = rate(files, THREADS, 0, size)
    storage = max(rates.values())
    share = size / min(cold) / storage
    return dict(passed=share >= args.share and resident <= 0.05, share=round(share, 3), at_least=args.share, bytes=size,
                sync_s=round(sync_s, 1),
                storage_gb_s={f"{t} threads": round(r / 1e9, 3) for t, r in rates.items()}, o_direct=direct,
                probed_bytes=min(args.probe, size), resident_when_cold=round(resident, 4),
                cold_load_s=[round(s, 2) for s in cold], cold_gb_s=round(size / min(cold) / 1e9, 3),
                warm_load_s=round(warm, 2), warm_gb_s=round(size / warm / 1e9, 3), warm_process_s=round(warm_wall, 2),
                resident_when_warm=round(warm_resident, 4), page_cache_gb_s=round(cache_rate / 1e9, 3),
                device=args.device, tensor_parallel=args.tensor_parallel)


def self_check(l4_run):
    """That files really leave the page cache and come back, and that every number is there."""
    demo = Path(__file__).resolve().parents[2] / "core" / "demo"
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for file in demo.iterdir():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        files = shards_of(folder)
        assert resident_share(files) > 0.9
        assert rate(files, 2, 0, 1 << 40) > 0 and read_part(files[0], 0, 1 << 40, 0) == files[0].stat().st_size
        args = arguments([folder, "--l4-run", l4_run, "--device", "cpu"])
        result = measure(args, folder)
    print(json.dumps(result))
    if result["resident_when_cold"] > 0.02 or result["resident_when_warm"] < 0.98:
        sys.exit("loader.py: the page cache is not what it is said to be")
    print("loader.py: self-check passed", file=sys.stderr)


def arguments(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", nargs="?")
    p.add_argument("--l4-run", default="build/l4-run")
    p.add_argument("--device", default="cuda")
    p.add_argument("--tensor-parallel", type=int, default=1)
    p.add_argument("--l4-arguments", type=shlex.split, default=[], metavar="WORDS", help='more for l4: "-b 512"')
    p.add_argument("--cold", type=int, default=1, help="cold loads; the best counts")
    p.add_argument("--probe", type=int, default=6_000_000_000, help="bytes read to learn the storage's rate")
    p.add_argument("--share", type=float, default=0.6)
    p.add_argument("--out", type=Path)
    p.add_argument("--self-check", metavar="L4_RUN")
    return p.parse_args(argv)


def main():
    args = arguments()
    if args.self_check:
        return self_check(args.self_check)
    if not args.checkpoint:
        sys.exit("loader.py: expected a checkpoint")
    result = measure(args, args.checkpoint)
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
