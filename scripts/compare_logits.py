#!/usr/bin/env python3
"""Compares two .npy files of logits [T, vocab], the first being the reference. Needs numpy alone.

    scripts/compare_logits.py hf.npy ours.npy
    scripts/compare_logits.py hf.npy ours.npy --max-distance 0.02 --min-top1 0.98    exit 1 when missed

relative distance  |b - a| / |a| over everything, and of the worst position
top-1 agreement    positions whose best token is the same
KL                 of softmax(b) from softmax(a), in nats, mean and worst
"""

import argparse
import sys
from pathlib import Path

import numpy as np


def load(path):
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as e:
        sys.exit(f"compare_logits.py: {path}: {e.strerror}")
    except (ValueError, EOFError):
        sys.exit(f"compare_logits.py: {path}: not an .npy file")
    if x.ndim != 2 or x.dtype != np.float32:
        sys.exit(f"compare_logits.py: {path}: expected float32 [T, vocab], found {x.dtype} {list(x.shape)}")
    return x


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def compare(a, b, rows_at_once=256):
    """Figures per position, a few rows at a time: a long prompt's logits are gigabytes."""
    difference, size, largest, same, kl = [], [], [], [], []
    for begin in range(0, len(a), rows_at_once):
        x, y = (np.asarray(m[begin:begin + rows_at_once], dtype=np.float64) for m in (a, b))
        difference.append(np.linalg.norm(y - x, axis=1))
        size.append(np.linalg.norm(x, axis=1))
        largest.append(np.abs(y - x).max(axis=1))
        same.append(x.argmax(axis=1) == y.argmax(axis=1))
        p, q = log_softmax(x), log_softmax(y)
        kl.append((np.exp(p) * (p - q)).sum(axis=1))
    return [np.concatenate(part) for part in (difference, size, largest, same, kl)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--max-distance", type=float, help="largest relative distance over all logits")
    parser.add_argument("--min-top1", type=float, help="smallest share of positions with the same best token")
    args = parser.parse_args()
    a, b = load(args.reference), load(args.other)
    if a.shape != b.shape or not a.size:
        sys.exit(f"compare_logits.py: {list(a.shape)} and {list(b.shape)} cannot be compared")
    difference, size, largest, same, kl = compare(a, b)
    distance, top1 = np.linalg.norm(difference) / np.linalg.norm(size), same.mean()
    rows = difference / size
    print(f"positions          {len(a)}, vocabulary {a.shape[1]}")
    print(f"relative distance  {distance:.3g}, worst {rows.max():.3g} at position {rows.argmax()}")
    print(f"largest difference {largest.max():.3g} at position {largest.argmax()}")
    first = "" if same.all() else f", first other token at position {same.argmin()}"
    print(f"top-1 agreement    {top1:.4f} ({int(same.sum())} of {len(a)}){first}")
    print(f"KL                 mean {kl.mean():.3g}, worst {kl.max():.3g} at position {kl.argmax()}")
    missed = []
    if args.max_distance is not None and not distance <= args.max_distance:
        missed.append(f"relative distance {distance:.3g} is above {args.max_distance}")
    if args.min_top1 is not None and not top1 >= args.min_top1:
        missed.append(f"top-1 agreement {top1:.4f} is below {args.min_top1}")
    if missed:
        sys.exit("compare_logits.py: " + "; ".join(missed))


if __name__ == "__main__":
    main()
