#!/usr/bin/env python3
"""Draws result files of l4-bench (JSON lines or a JSON array) as one PNG: speed, and how much of the limit it is.

    scripts/bench_plot.py results.jsonl [more.jsonl ...] -o plot.png [--x n_depth|n_sequences|n_prompt]
    scripts/bench_plot.py --check

Left: tokens a second (median; bars: standard deviation). Right: per cent of the limit that the device's ceilings
allow. One line for each model, format, device and kind of test; along x what --x names, by default whichever of context,
sequences and prompt takes most values. matplotlib is pinned in scripts/requirements.txt.
"""

import argparse
import json
import re
import sys
import tempfile

AXES = {"n_depth": "context, tokens", "n_sequences": "sequences", "n_prompt": "prompt, tokens"}


def read(paths):
    records = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        try:
            whole = json.loads(text)
            found = whole if isinstance(whole, list) else [whole]
        except json.JSONDecodeError:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        records += [r for r in found if isinstance(r, dict) and "median_ts" in r]
    if not records:
        sys.exit("no results of l4-bench in " + ", ".join(paths))
    return records


def choose_axis(records):
    return max(AXES, key=lambda name: len({r.get(name) for r in records}))


def series(records, axis):
    """{label: [(x, t/s, deviation, share of the limit)]}: what differs besides the axis names a line."""
    def kind(record):
        word = re.match(r"[a-z]+", record["test"]).group()
        others = [f"{name[2:]} {record[name]}" for name in AXES if name != axis and len({r.get(name) for r in records}) > 1]
        names = [record["model_name"]] if len({r["model_name"] for r in records}) > 1 else []
        names += [record["format"]] if len({r.get("format") for r in records}) > 1 and record.get("format") else []
        names += [record["stage"]] if len({r.get("stage") for r in records}) > 1 and record.get("stage") else []
        names += [record["device"]] if len({r["device"] for r in records}) > 1 else []
        names += [record["routing"]] if len({r.get("routing") for r in records}) > 1 else []
        return ", ".join(names + [word] + others)
    out = {}
    for r in records:
        share = r.get("limit_share")
        out.setdefault(kind(r), []).append((r[axis], r["median_ts"], r["stddev_ts"], None if share is None else 100 * share))
    return {name: sorted(points) for name, points in out.items()}


def draw(records, axis, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (speed, limit) = plt.subplots(1, 2, figsize=(12, 5))
    for name, points in series(records, axis).items():
        x = [p[0] for p in points]
        speed.errorbar(x, [p[1] for p in points], yerr=[p[2] for p in points], marker="o", capsize=3, label=name)
        if all(p[3] is not None for p in points):
            limit.plot(x, [p[3] for p in points], marker="o", label=name)
    for axes, title in ((speed, "tokens / s"), (limit, "% of limit")):
        if len({r[axis] for r in records}) > 2 and min(r[axis] for r in records) > 0:
            axes.set_xscale("log", base=2)
        axes.set_xlabel(AXES[axis])
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    speed.legend(fontsize="small")
    first = records[0]
    figure.suptitle(f"{first['model_name']}, {first['device']} ({first['build_commit']})")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def check():
    records = [{"test": f"decode {b} @ d{d}", "model_name": "m", "device": "x", "build_commit": "c", "routing": "router",
                "n_depth": d, "n_sequences": b, "n_prompt": 0, "median_ts": b * 100 / d, "stddev_ts": 1.0, "limit_share": 0.5}
               for d in (1024, 4096, 16384) for b in (1, 8)]
    assert choose_axis(records) == "n_depth"
    mixed = [{**r, "format": f} for r in records for f in ("bf16", "int4-mix")]
    assert "int4-mix, decode, sequences 8" in series(mixed, "n_depth"), sorted(series(mixed, "n_depth"))
    lines = series(records, "n_depth")
    assert sorted(lines) == ["decode, sequences 1", "decode, sequences 8"], sorted(lines)
    assert [p[0] for p in lines["decode, sequences 8"]] == [1024, 4096, 16384]
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        draw(records, "n_depth", file.name)
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    print("ok")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="*")
    parser.add_argument("-o", "--output", default="bench.png")
    parser.add_argument("--x", choices=AXES, help="what lies along x")
    parser.add_argument("--check", action="store_true", help="draw made-up results and exit")
    args = parser.parse_args()
    if args.check:
        check()
        return
    if not args.results:
        parser.error("a result file is needed")
    records = read(args.results)
    draw(records, args.x or choose_axis(records), args.output)
    print(args.output)


if __name__ == "__main__":
    main()
