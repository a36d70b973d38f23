#!/usr/bin/env python3
"""Compares two result files of l4-bench (JSON lines or a JSON array): tokens a second, side by side, with noise.

    scripts/bench_compare.py before.jsonl after.jsonl
    scripts/bench_compare.py --check

Tests are matched by what was measured: model, device, ranks, formats, test. The ratio is after / before of the medians;
"noise" is how far it may be off by chance: two standard errors of both sides together. A ratio outside of it is marked
"faster" or "slower". Exit status 1 with --fail-below R when any ratio, noise added, is below R. Standard library only.
"""

import argparse
import json
import math
import sys

KEY = ("model_name", "n_layers", "device", "backend", "tp", "pp", "ep", "format", "dtype", "kv_dtype", "routing", "test", "n_batch")


def read(path):
    """{key: record}; of a test measured more than once the last."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        whole = json.loads(text)
        records = whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        records = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except json.JSONDecodeError as error:
                    sys.exit(f"{path}:{number}: not JSON: {error}")
    out = {}
    for record in records:
        if isinstance(record, dict) and "samples_ns" in record:
            out[tuple(record.get(name) for name in KEY)] = record
    if not out:
        sys.exit(f"{path}: no results of l4-bench in it")
    return out


def relative_error(record):
    """Standard error of the mean time, as a share of it."""
    n = len(record["samples_ns"])
    return record["stddev_ns"] / math.sqrt(n) / record["avg_ns"] if n > 1 and record["avg_ns"] else 0.0


def compare(before, after):
    """Rows (key, before t/s, after t/s, ratio, noise, verdict) of the tests that both have, in after's order."""
    rows = []
    for key, new in after.items():
        old = before.get(key)
        if old is None:
            continue
        ratio = new["median_ts"] / old["median_ts"]
        noise = 2 * ratio * math.hypot(relative_error(old), relative_error(new))
        verdict = "" if abs(ratio - 1) <= noise else "faster" if ratio > 1 else "slower"
        rows.append((key, old["median_ts"], new["median_ts"], ratio, noise, verdict))
    return rows


def label(key, keys):
    """What tells this key from the others, and always the test."""
    parts = []
    for position, name in enumerate(KEY):
        if name == "test" or len({other[position] for other in keys}) > 1:
            parts.append(str(key[position]) if name in ("test", "model_name", "device", "format") else f"{name} {key[position]}")
    return ", ".join(parts)


def share(record):
    return "-" if record.get("limit_share") is None else f"{100 * record['limit_share']:.1f}"


def print_table(before, after):
    rows = compare(before, after)
    keys = [row[0] for row in rows]
    cells = [("test", "t/s before", "t/s after", "ratio", "noise", "% of limit", "")]
    for key, old, new, ratio, noise, verdict in rows:
        cells.append((label(key, keys), f"{old:,.2f}", f"{new:,.2f}", f"{ratio:.3f}", f"± {noise:.3f}",
                      f"{share(before[key])} -> {share(after[key])}", verdict))
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for number, row in enumerate(cells):
        print("| " + " | ".join(c.ljust(w) if i in (0, 6) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) + " |")
        if number == 0:
            print("|" + "|".join("-" * (w + 1) + (":" if i not in (0, 6) else "-") for i, w in enumerate(widths)) + "|")
    for name, ours, other in (("before", before, after), ("after", after, before)):
        lonely = [key for key in ours if key not in other]
        if lonely:
            print(f"\nonly {name}: " + "; ".join(label(key, lonely) for key in lonely))
    commits = [sorted({r.get("build_commit", "?") for r in side.values()}) for side in (before, after)]
    print(f"\nbefore: {', '.join(commits[0])}; after: {', '.join(commits[1])}")
    return rows


def check():
    def record(test, median, stddev_ns, n=4):
        return {"test": test, "model_name": "m", "median_ts": median, "avg_ns": 1e9 / median, "stddev_ns": stddev_ns,
                "samples_ns": [1e9 / median] * n, "limit_share": 0.5}
    def side(*records):
        return {tuple(r.get(name) for name in KEY): r for r in records}
    before = side(record("a", 100, 2e5), record("b", 100, 5e6), record("c", 100, 0), record("d", 1, 0))
    after = side(record("a", 110, 2e5), record("b", 110, 5e6), record("c", 50, 0))
    rows = {row[0][KEY.index("test")]: row for row in compare(before, after)}
    assert set(rows) == {"a", "b", "c"}
    assert abs(rows["a"][3] - 1.1) < 1e-12 and rows["a"][5] == "faster"
    # Standard errors: 5e6 / 2 of 1e7 and of 1e9 / 110; two of them, together, of 1.1.
    assert abs(rows["b"][4] - 2 * 1.1 * math.hypot(0.25, 0.275)) < 1e-12 and rows["b"][5] == ""
    assert rows["c"][4] == 0 and rows["c"][5] == "slower"
    print_table(before, after)
    print("ok")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", nargs="?")
    parser.add_argument("after", nargs="?")
    parser.add_argument("--fail-below", type=float, metavar="R", help="exit status 1 when a test got slower than that")
    parser.add_argument("--check", action="store_true", help="test the arithmetic and exit")
    args = parser.parse_args()
    if args.check:
        check()
        return 0
    if not args.before or not args.after:
        parser.error("two result files are needed")
    rows = print_table(read(args.before), read(args.after))
    if not rows:
        sys.exit("the files have no test in common")
    return int(args.fail_below is not None and any(row[3] + row[4] < args.fail_below for row in rows))


if __name__ == "__main__":
    sys.exit(main())
