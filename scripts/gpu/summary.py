#!/usr/bin/env python3
"""The table at the end of session.sh, from results.jsonl; exit status 1 unless every section passed.

    summary.py RESULTS.jsonl
    summary.py --self-check
"""

import json
import sys

STATUS = {0: "passed", 75: "left out: no time", 77: "not run", 124: "ran out of time", 137: "ran out of time"}


def headlines(line):
    """What a tool's JSON line says, in a few words each."""
    if "past_chunk" in line:  # real_width.py
        last = [q for q in line["all"] if q != "logits"][-1]
        flips = [sum(r[k] for r in line["routing"]) for k in ("l4_flipped", "hf_flipped", "tokens")]
        yield (f"real width, {line['tensor_parallel']} GPU: error against transformers' {line['all'][last]['ratio']} (residual), "
               f"{line['all']['logits']['ratio']} (logits), {flips[0]} and {flips[1]} of {flips[2]} tokens flipped")
    elif "storage_gb_s" in line:  # loader.py
        yield (f"loader: {line['cold_gb_s']} GB/s cold, {line['share']} of the storage's {max(line['storage_gb_s'].values())} "
               f"GB/s; {line['warm_gb_s']} GB/s out of the page cache")
    elif "bfloat16" in line:  # demo.py
        for name in ("float32", "bfloat16"):
            yield f"demo: {name}: {line[name]['same']} of {line[name]['answers']} answers token for token"
        if "passkeys" in line:
            yield f"demo: pass keys to 64K: {line['passkeys']['right']} of {line['passkeys']['items']}"
    elif "gb_per_s" in line:  # make_checkpoint.py
        yield f"checkpoint: {line['bytes'] / 1e9:.1f} GB at {line['gb_per_s']} GB/s"
    for missed in line.get("missed", []):
        yield "MISSED: " + missed


def summary(lines):
    """Text, and whether all passed."""
    sections = [line for line in lines if "section" in line]
    out = [f"{'section':12} {'result':20} {'seconds':>8} {'estimate':>9}"]
    for s in sections:
        result = STATUS.get(s["exit"], f"FAILED, exit {s['exit']}")
        out.append(f"{s['section']:12} {result:20} {s['seconds']:8} {s['estimate']:9}")
    out += [text for line in lines if "section" not in line for text in headlines(line)]
    return "\n".join(out), bool(sections) and all(s["exit"] == 0 for s in sections)


def self_check():
    lines = [dict(section="a", exit=0, seconds=3, estimate=4), dict(bytes=5e9, gb_per_s=2)]
    text, good = summary(lines)
    assert good and "passed" in text and "5.0 GB" in text, text
    for status, word in ((1, "FAILED"), (75, "left out"), (77, "not run"), (124, "ran out of time")):
        text, good = summary(lines + [dict(section="b", exit=status, seconds=0, estimate=1)])
        assert not good and word in text, text
    assert not summary([])[1]
    assert "MISSED: x" in summary([dict(missed=["x"])])[0]
    print("summary.py: self-check passed", file=sys.stderr)


def main():
    if sys.argv[1:] == ["--self-check"]:
        return self_check()
    with open(sys.argv[1]) as f:
        text, good = summary([json.loads(line) for line in f if line.startswith("{")])
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
